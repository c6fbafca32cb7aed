//! Finds rules by which a message comes back to where it began. Pure. A pair of a `send` and a `receive` rule is a loop when
//! there is a topic that the first sends, whose name there the second takes, and whose name here is sent again. Topics are
//! infinitely many, so they are not tried: filters are read as automata that all walk along one unknown text.

use std::collections::HashSet;
use std::collections::VecDeque;

use crate::config::plant::Mapping;
use crate::config::plant::Rest;
use crate::config::plant::Upstream;

/// States looked at for one pair; more are not needed by rules that people write, and a check must end.
const STATES_MOST: usize = 20_000;

/// A way round.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Loop {
    /// Upstream and index of the `send` rule.
    pub(super) send: (usize, usize),
    /// Upstream and index of the `receive` rule.
    pub(super) receive: (usize, usize),
    /// A topic that goes round, shortest first.
    pub(super) topic: String,
    /// Its name upstream.
    pub(super) there: String,
    /// Its name when it is back.
    pub(super) back: String,
}

/// All pairs that are loops, through one upstream or through two that share a broker. `commands` is a filter of topics that
/// may come back: the gateway takes them itself, once, and never from what the peer retains.
pub(super) fn find(upstreams: &[Upstream], commands: &str) -> Vec<Loop> {
    let mut loops = Vec::new();
    for (a, from) in upstreams.iter().enumerate() {
        for (b, to) in upstreams.iter().enumerate().filter(|(b, to)| *b == a || one_broker(from, to)) {
            for s in 0..from.send.len() {
                let found = (0..to.receive.len()).filter_map(|r| {
                    let [topic, there, back] = way_round(&from.send, s, &to.receive, r, commands)?;
                    Some(Loop { send: (a, s), receive: (b, r), topic, there, back })
                });
                loops.extend(found);
            }
        }
    }
    loops
}

fn one_broker(a: &Upstream, b: &Upstream) -> bool {
    a.endpoints.iter().any(|x| b.endpoints.iter().any(|y| x.host.eq_ignore_ascii_case(&y.host) && x.port == y.port))
}

/// The three names of a topic that goes round by these rules.
fn way_round(send: &[Mapping], s: usize, receive: &[Mapping], r: usize, commands: &str) -> Option<[String; 3]> {
    if send[s].rest == Rest::Encoded {
        // One property in a topic of the cloud's own, which no filter for here can match.
        return None;
    }
    let ways = ways(&send[s], &receive[r]);
    ways.iter().find_map(|way| Search::new(way, &send[..=s], &receive[..=r], send, commands).run())
}

/// A name: a known beginning, and the unknown text behind it unless it is left out.
#[derive(Debug, Clone)]
struct Name {
    begins: String,
    open: bool,
}

impl Name {
    fn renamed(&self, rule: &Mapping) -> Self {
        match (rule.rest, self.begins.strip_prefix(&rule.strip)) {
            (Rest::LeftOut, _) => Self { begins: rule.prefix.clone(), open: false },
            (_, rest) => Self { begins: format!("{}{}", rule.prefix, rest.unwrap_or(&self.begins)), open: self.open },
        }
    }
}

/// One case of what the unknown text may be: whether `strip` of either rule applies is settled.
struct Way {
    names: [Name; 3],
    /// The name with this index does not begin with this text.
    never: Vec<(usize, String)>,
}

fn ways(send: &Mapping, receive: &Mapping) -> Vec<Way> {
    let mut ways = Vec::new();
    for (topic, not_stripped) in split(&Name { begins: String::new(), open: true }, &send.strip) {
        let there = topic.renamed(send);
        for (taken, not_taken) in split(&there, &receive.strip) {
            // What is now known to follow is known of the topic as well.
            let more = &taken.begins[there.begins.len()..];
            let topic = Name { begins: format!("{}{more}", topic.begins), open: true };
            let back = taken.renamed(receive);
            let never = [(0, &not_stripped), (1, &not_taken)];
            let never = never.into_iter().filter_map(|(n, text)| Some((n, text.clone()?))).collect();
            ways.push(Way { names: [topic, taken, back], never });
        }
    }
    ways
}

/// The name as one that begins with `strip`, and as one that does not.
fn split(name: &Name, strip: &str) -> Vec<(Name, Option<String>)> {
    if name.begins.starts_with(strip) {
        return vec![(name.clone(), None)];
    }
    let without = (name.clone(), Some(strip.to_owned()));
    if name.open && strip.starts_with(&name.begins) {
        return vec![(Name { begins: strip.to_owned(), open: true }, None), without];
    }
    vec![without]
}

/// What of a filter is still to come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    Char(char),
    Level,
    All,
}

/// A filter, or "begins with", as an automaton over characters.
struct Machine {
    /// Which of the three names it reads.
    reads: usize,
    tokens: Vec<Token>,
    is_filter: bool,
}

/// Positions in the tokens.
type Places = Vec<u16>;

impl Machine {
    fn filter(reads: usize, filter: &str) -> Self {
        let token = |c| match c {
            '+' => Token::Level,
            '#' => Token::All,
            c => Token::Char(c),
        };
        Self { reads, tokens: filter.chars().map(token).collect(), is_filter: true }
    }

    fn beginning(reads: usize, text: &str) -> Self {
        let tokens = text.chars().map(Token::Char).chain([Token::All]).collect();
        Self { reads, tokens, is_filter: false }
    }

    fn closed(&self, mut places: Places) -> Places {
        let mut next = 0;
        while let Some(place) = places.get(next).copied() {
            // A level may be empty.
            if self.tokens.get(usize::from(place)) == Some(&Token::Level) && !places.contains(&(place + 1)) {
                places.push(place + 1);
            }
            next += 1;
        }
        places.sort_unstable();
        places
    }

    fn begin(&self) -> Places {
        self.closed(vec![0])
    }

    fn step(&self, places: &Places, c: char, first: bool) -> Places {
        let wild = self.is_filter && matches!(self.tokens.first(), Some(Token::Level | Token::All));
        if first && c == '$' && wild {
            return Vec::new();
        }
        let mut next = Vec::new();
        for place in places {
            let to = match self.tokens.get(usize::from(*place)) {
                Some(Token::Char(want)) if *want == c => place + 1,
                Some(Token::Level) if c != '/' => *place,
                Some(Token::All) => *place,
                _ => continue,
            };
            if !next.contains(&to) {
                next.push(to);
            }
        }
        self.closed(next)
    }

    fn accepts(&self, places: &Places) -> bool {
        places.iter().any(|place| match &self.tokens[usize::from(*place)..] {
            [] | [Token::All] => true,
            // `a/#` matches `a` as well.
            [Token::Char('/'), Token::All] => self.is_filter,
            _ => false,
        })
    }
}

/// The walk of all automata along the unknown text, breadth first: the first topic found is a shortest one.
struct Search<'a> {
    way: &'a Way,
    machines: Vec<Machine>,
    /// How many of the machines are `send` rules up to the one in question, `receive` rules likewise, `send` rules again.
    sends: usize,
    receives: usize,
    again: usize,
}

impl<'a> Search<'a> {
    fn new(way: &'a Way, sends: &[Mapping], receives: &[Mapping], again: &[Mapping], commands: &str) -> Self {
        let filters = |reads, rules: &[Mapping]| -> Vec<Machine> {
            rules.iter().map(|rule| Machine::filter(reads, rule.filter.as_str())).collect()
        };
        let mut machines = filters(0, sends);
        machines.extend(filters(1, receives));
        machines.extend(filters(2, again));
        machines.push(Machine::filter(2, commands));
        machines.extend(way.never.iter().map(|(reads, text)| Machine::beginning(*reads, text)));
        Self { way, machines, sends: sends.len(), receives: receives.len(), again: again.len() }
    }

    /// All characters that make a difference, and one that makes none.
    fn alphabet(&self) -> Vec<char> {
        let tokens = self.machines.iter().flat_map(|m| &m.tokens);
        let named = tokens.filter_map(|t| if let Token::Char(c) = t { Some(*c) } else { None });
        let mut all: Vec<char> = named.chain(['/']).collect();
        all.sort_unstable();
        all.dedup();
        let other = ('a'..='z').chain('A'..='Z').chain('0'..='9').find(|c| !all.contains(c));
        // First, because it reads best in a message.
        other.into_iter().chain(all).collect()
    }

    fn run(&self) -> Option<[String; 3]> {
        let alphabet = self.alphabet();
        let begin: Vec<Places> = self.machines.iter().map(|m| self.begun(m)).collect();
        // Not the beginning: the same places after a character are another state, because no topic is empty.
        let mut seen = HashSet::new();
        let mut queue = VecDeque::from([(begin, String::new())]);
        while let Some((state, text)) = queue.pop_front() {
            if self.is_loop(&state, &text) {
                return Some(self.named(&text));
            }
            for c in &alphabet {
                let next = self.advanced(&state, &text, *c);
                // Without the two filters in question nothing can be found any more.
                let alive = !next[self.sends - 1].is_empty() && !next[self.sends + self.receives - 1].is_empty();
                if alive && seen.len() < STATES_MOST && seen.insert(next.clone()) {
                    queue.push_back((next, format!("{text}{c}")));
                }
            }
        }
        None
    }

    fn begun(&self, machine: &Machine) -> Places {
        let known = &self.way.names[machine.reads].begins;
        known.chars().enumerate().fold(machine.begin(), |places, (n, c)| machine.step(&places, c, n == 0))
    }

    fn advanced(&self, state: &[Places], text: &str, c: char) -> Vec<Places> {
        let each = self.machines.iter().zip(state).map(|(machine, places)| {
            let name = &self.way.names[machine.reads];
            let first = name.begins.is_empty() && text.is_empty();
            if name.open { machine.step(places, c, first) } else { places.clone() }
        });
        each.collect()
    }

    fn named(&self, text: &str) -> [String; 3] {
        self.way.names.clone().map(|name| if name.open { name.begins + text } else { name.begins })
    }

    fn is_loop(&self, state: &[Places], text: &str) -> bool {
        let accepted: Vec<bool> = self.machines.iter().zip(state).map(|(m, places)| m.accepts(places)).collect();
        let (sends, rest) = accepted.split_at(self.sends);
        let (receives, rest) = rest.split_at(self.receives);
        let (again, never) = rest.split_at(self.again);
        let decides = |rules: &[bool]| rules.iter().position(|matches| *matches) == Some(rules.len() - 1);
        let empty = self.way.names.iter().any(|name| name.begins.is_empty() && (text.is_empty() || !name.open));
        decides(sends) && decides(receives) && again.contains(&true) && !never.contains(&true) && !empty
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::config::plant::RetainRule;
    use crate::config::route::deciding;
    use crate::topic::Qos;
    use crate::topic::TopicFilter;
    use crate::topic::TopicName;

    const COMMANDS: &str = "g/+/+/set";

    fn rule(filter: &str, strip: &str, prefix: &str) -> Mapping {
        Mapping {
            filter: TopicFilter::new(filter).unwrap(),
            strip: strip.to_owned(),
            prefix: prefix.to_owned(),
            rest: Rest::AsIs,
            qos: Qos::AtLeastOnce,
            retain: RetainRule::Keep,
        }
    }

    fn round(send: &[Mapping], receive: &[Mapping]) -> Option<String> {
        let pairs = (0..send.len()).flat_map(|s| (0..receive.len()).map(move |r| (s, r)));
        pairs.into_iter().find_map(|(s, r)| way_round(send, s, receive, r, COMMANDS)).map(|[topic, ..]| topic)
    }

    #[test]
    fn ways_round_are_found_and_ways_that_end_are_not() {
        let cases: &[(&[Mapping], &[Mapping], Option<&str>)] = &[
            (&[rule("#", "", "")], &[rule("#", "", "")], Some("/")),
            (&[rule("g/#", "g/", "s/g/")], &[rule("s/g/#", "s/", "")], Some("g/")),
            // Commands come back to nobody but the gateway.
            (&[rule("g/#", "g/", "s/g/")], &[rule("s/g/+/+/set", "s/", "")], None),
            (&[rule("g/#", "", "s/")], &[rule("s/+/+/+/set", "s/", "")], None),
            (&[rule("g/#", "", "up/")], &[rule("down/#", "down/", "g/")], None),
            // It comes back to where nothing is sent from.
            (&[rule("g/#", "", "up/")], &[rule("up/#", "up/", "copy/")], None),
            (&[rule("g/#", "", "up/")], &[rule("up/#", "", "")], None),
            // Only some of what is sent is taken, but that goes round.
            (&[rule("g/#", "", "up/")], &[rule("up/g/x/+/y", "up/", "")], Some("g/x//y")),
            // An earlier rule sends it elsewhere.
            (&[rule("g/x/#", "", "else/"), rule("g/#", "", "up/")], &[rule("up/g/x/#", "up/", "")], None),
            (&[rule("g/#", "", "up/")], &[rule("up/g/#", "", "gone/"), rule("up/#", "up/", "")], None),
            // `strip` that is longer than the prefix it meets, and does not always apply.
            (&[rule("#", "", "a")], &[rule("ab/#", "ab/", "c/")], Some("b/")),
            // After its first character the walk stands where it began, and is further all the same.
            (&[rule("+/#", "", "$a/")], &[rule("$a/+", "", "a")], Some("a")),
            (&[rule("c/#", "", "a")], &[rule("#", "ab/", "c/")], Some("c")),
        ];
        for (n, (send, receive, want)) in cases.iter().enumerate() {
            let got = round(send, receive);
            assert_eq!(got.is_some(), want.is_some(), "case {n}: {got:?}");
            if let (Some(got), Some(want)) = (got, want) {
                assert_eq!(got.len(), want.len(), "case {n}: {got} is no shortest one like {want}");
            }
        }
    }

    #[test]
    fn topics_that_begin_with_a_dollar_are_no_business_of_wildcards() {
        assert_eq!(round(&[rule("$a/#", "", "")], &[rule("#", "", "")]), None);
        assert_eq!(round(&[rule("$a/#", "", "")], &[rule("$a/#", "", "")]).as_deref(), Some("$a"));
    }

    #[test]
    fn rules_with_one_topic_for_all_go_round_too() {
        let one = |filter: &str, topic: &str| Mapping { rest: Rest::LeftOut, ..rule(filter, "", topic) };
        assert!(round(&[one("g/#", "t")], &[rule("t", "t", "g/x")]).is_some());
        assert!(round(&[rule("g/#", "", "s/")], &[one("s/#", "g/x")]).is_some());
        assert_eq!(round(&[one("g/#", "t")], &[rule("u", "u", "g/x")]), None);
    }

    /// The same question, by trying topics.
    fn by_trying(send: &[Mapping], receive: &[Mapping], topics: &[TopicName]) -> Option<String> {
        let commands = TopicFilter::new(COMMANDS).unwrap();
        let goes_round = |topic: &&TopicName| {
            let there = deciding(send, topic).and_then(|(_, rule)| rule.rename(topic).ok());
            let back = there.and_then(|t| deciding(receive, &t).and_then(|(_, rule)| rule.rename(&t).ok()));
            back.is_some_and(|back| deciding(send, &back).is_some() && !commands.matches(&back))
        };
        topics.iter().find(goes_round).map(|t| t.as_str().to_owned())
    }

    fn topics() -> Vec<TopicName> {
        let levels = ["", "a", "b", "g", "set", "$a", "ab", "x"];
        let mut names: Vec<String> = levels.map(str::to_owned).to_vec();
        let mut last = names.clone();
        for _ in 0..3 {
            last = last.iter().flat_map(|t| levels.map(|level| format!("{t}/{level}"))).collect();
            names.extend(last.clone());
        }
        names.into_iter().filter_map(|t| TopicName::new(t).ok()).collect()
    }

    fn rules() -> impl Strategy<Value = Vec<Mapping>> {
        let filter = proptest::collection::vec(proptest::sample::select(vec!["a", "b", "g", "set", "+", "$a"]), 1..4);
        let filter = (filter, any::<bool>()).prop_map(|(levels, rest)| {
            let text = levels.join("/");
            if rest { format!("{text}/#") } else { text }
        });
        let part = proptest::sample::select(vec!["", "a", "a/", "b/", "g/", "a/b/", "$a/"]);
        let one = (filter, part.clone(), part).prop_map(|(filter, strip, prefix)| rule(&filter, strip, prefix));
        proptest::collection::vec(one, 1..3)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]
        #[test]
        fn what_goes_round_when_tried_is_found_and_what_is_found_goes_round(send in rules(), receive in rules()) {
            let found = round(&send, &receive);
            if let Some(topic) = &found {
                let topic = TopicName::new(topic.as_str()).unwrap();
                prop_assert!(by_trying(&send, &receive, &[topic]).is_some(), "{found:?}");
            }
            if let Some(tried) = by_trying(&send, &receive, &topics()) {
                prop_assert!(found.is_some(), "{tried}");
            }
        }
    }
}
