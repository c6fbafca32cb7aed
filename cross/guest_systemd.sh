#!/bin/bash
# What cross/try-systemd holds, run as root in its guest by a service of its own. Each `holds` tells "ok   NAME" or "FAIL NAME" on
# the console; the machine outside knows the names from this file. Waiting is looking again until a limit, never a guess.
#
# Two boots: `installed` ends with its power being cut in the middle of a trial, `powerless` begins with what that left behind.
export LC_ALL=C PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root SYSTEMD_PAGER='' SYSTEMD_COLORS=0
conf=/etc/trunkline/gateway.yaml drop=/run/systemd/system/trunkline.service.d port=/dev/ttyS1
out=$(mktemp)

holds() { # name, command…
    local name=$1
    shift
    if "$@" >"$out" 2>&1; then echo "ok   $name"; return; fi
    echo "FAIL $name"
    # What was seen instead, and what the gateway said last.
    { tail -n 12 "$out"; journalctl -u trunkline -n 12 -o cat --no-pager; systemctl show trunkline -p ActiveState,Result,StatusText; } | sed 's/^/     | /'
}
figure() { echo "guest: $*"; }

# Looks again until it holds, for a minute at most: a restart takes five seconds by the unit.
soon() { local until=$((SECONDS + 60)); until "$@"; do [ $SECONDS -lt $until ] && a_moment 0.2 || return; done; }
a_moment() { read -rt "$1" <>"$pause" || true; }
pause=$(mktemp -u) && mkfifo "$pause"
refuses() { ! "$@"; }
within() { # seconds, command…: done, and in this time
    local begun=$SECONDS
    "${@:2}" && [ $((SECONDS - begun)) -le "$1" ]
}
ends_with() { # exit status, command…
    local status=0
    "${@:2}" || status=$?
    echo "exit status $status"
    [ "$status" = "$1" ]
}
says() { "${@:2}" 2>&1 | tee /dev/stderr | grep -qE -- "$1"; } # pattern, command…

service() { systemctl show trunkline -p "$1" --value; }
is() { says "^$2\$" service "$1"; } # property, value
main() { service MainPID; }
active() { systemctl is-active --quiet trunkline; }
process() { says "$1" cat "/proc/$(main)/status"; }
same_process() { [ "$(main)" = "$1" ] && active; }
another_process() { [ "$(main)" != "$1" ] && [ "$(main)" != 0 ] && active; }
status() { trunkline status "$@"; }

# The journal since a mark. By time: --after-cursor of systemd 252 also leaves out the first entry that a filter lets through.
mark() { since=$(date '+%F %T.%6N'); }
journal() { journalctl --sync && journalctl --no-pager --quiet -u trunkline --since "$since" "$@"; }
told() { says "$1" journal -o cat "${@:2}"; } # pattern, options of journalctl
silent() { [ -z "$("$@" | tee /dev/stderr)" ]; }

# What the broker of the gateway tells: one message that comes after the question, not what it kept.
comes() { mosquitto_sub -p 1883 -R -C 1 -W 20 -t "$1" | tee /dev/stderr | grep -q "$2"; } # topic, pattern
stays_away() { refuses mosquitto_sub -p 1883 -R -C 1 -W 3 -t "$1"; } # six polls long
clouded() { mosquitto_sub -p 1884 -u box -P "right horse" -C 1 -W 20 -t "$1" | tee /dev/stderr | grep -q "$2"; }

# begin_with LINES: the gateway's configuration, with what this check adds.
configure() { cat >"$conf" <<YAML
gateway: box
lines:
  hall: {serial: $port, baud: 19200, format: 8E1, timeout: 500ms}
${lines:-}
devices:
  - {name: meter, line: hall, unit_id: 1, points: {power: {holding: 7, every: 500ms, report: {when: poll}}${points:-}}}
${devices:-}
broker:
  listen: [{tcp: 127.0.0.1:1883}]
$1
YAML
}
cloud='upstreams:
  cloud: {url: "mqtt://127.0.0.1:1884", username: box, password: {credential: cloud}, send: [{filter: "box/meter/#", prefix: "sites/", qos: 1}]}'

drop_in() { mkdir -p "$drop" && printf '[Service]\n%s\n' "$@" >"$drop/checks.conf" && systemctl daemon-reload; }
no_drop_in() { rm -rf "$drop" && systemctl daemon-reload; }
start_anew() { systemctl stop trunkline; mark; systemctl reset-failed trunkline 2>/dev/null; systemctl start trunkline; }

install_it() {
    mark
    holds "the package installs under systemd" dpkg -i /goods/first.deb
    holds "it runs when it is installed" active
    holds "it is on at boot" systemctl is-enabled trunkline
    usermod -aG trunkline viewer
}

start() {
    configure ""
    holds "systemctl start succeeds" start_anew
    # No waiting here: this is what READY means.
    holds "at once its broker takes clients" mosquitto_pub -p 1883 -t hello -m there
    holds "at once it answers" says '^box .* trunkline ' status
    holds "it is active" active
    holds "what it says of itself is in words" says '^gateway box runs: 1 line, 1 device' service StatusText
    holds "systemctl status shows it" says 'Status: "gateway box runs' systemctl status trunkline
    holds "it runs as its user" says '^trunkline +trunkline' ps -o user:16=,group:16= -p "$(main)"
    holds "it may use serial ports by its group" says dialout ps -o supgrp= -p "$(main)"
    holds "it has no capabilities" process '^CapEff:	0+$'
    holds "and can get none" process '^CapBnd:	0+$'
    holds "no new privileges" process '^NoNewPrivs:	1'
    holds "its system calls are filtered" process '^Seccomp:	2'
    holds "it is shut out of home folders" refuses nsenter -t "$(main)" -m test -e /home/viewer
    holds "the system is read-only to it" refuses nsenter -t "$(main)" -m touch /usr/touched
    holds "a value comes off the wire" comes box/meter/power '"value":1234,.*"quality":"good"'
    # It speaks under its own name, and under that of the program where it has not become it yet.
    holds "systemd finds nothing to complain of" silent journalctl -b -p 4 --quiet -o cat -t systemd -t '(trunkline)' -t '(runkline)'
}

# The tty is taken from its group, then the user from the group; then a port is had of a kind that the unit does not know.
serial_rights() {
    chgrp root $port && chmod 600 $port
    start_anew
    holds "a port that is root's is told with what to do" soon told 'no permission to open /dev/ttyS1.*mode 600.*sudo chgrp dialout /dev/ttyS1'
    chgrp dialout $port && chmod 660 $port
    holds "and works as soon as that was done" soon comes box/meter/power 1234

    gpasswd -d trunkline dialout >/dev/null
    drop_in SupplementaryGroups=
    start_anew
    holds "without its group it names group and command" soon told 'no permission to open /dev/ttyS1: it belongs to group dialout; sudo usermod -aG dialout trunkline'
    holds "a port that is gone ends status with 2" ends_with 2 status
    usermod -aG dialout trunkline
    no_drop_in
    start_anew
    holds "after the command that it named it polls" comes box/meter/power 1234

    chgrp dialout /dev/hvc0 && chmod 660 /dev/hvc0
    lines='  other: {serial: /dev/hvc0, baud: 19200, format: 8N1, timeout: 500ms}'
    devices='  - {name: remote, line: other, unit_id: 1, points: {power: {holding: 7, every: 500ms, report: {when: poll}}}}'
    configure ""
    start_anew
    holds "a port of an unknown kind is closed by the unit, and it says how to open it" soon told 'DeviceAllow=char-hvc rw'
    drop_in 'DeviceAllow=char-hvc rw'
    start_anew
    holds "with the line that it named it polls there too" soon comes box/remote/power 1234
    lines='' devices=''
    no_drop_in
    configure ""
    start_anew
}

journald() {
    local said="journalctl -b --no-pager -o json"
    holds "its lines are in the journal with their priority" says '"PRIORITY":"6"' $said -t trunkline
    holds "those of a line are found by its field" says '"MESSAGE":"line down' $said TRUNKLINE_LINE=hall
    holds "those of a device too" says '"MESSAGE":"device offline' $said TRUNKLINE_DEVICE=nobody
    holds "they belong to the unit" says '"_SYSTEMD_UNIT":"trunkline.service"' $said TRUNKLINE_LINE=hall
}

asked() {
    holds "who is in the group may ask" ends_with 0 runuser -u viewer -- trunkline status
    holds "who is not is told how to get there" says 'usermod -aG trunkline' runuser -u stranger -- trunkline status
    holds "and a check that may not ask ends with 2" ends_with 2 runuser -u stranger -- trunkline status
    devices='  - {name: nobody, line: hall, unit_id: 9, points: {power: {holding: 7, every: 1s}}}'
    configure "" && systemctl reload trunkline
    holds "a device that does not answer ends status with 1" soon ends_with 1 status
    devices=''
    configure "" && systemctl reload trunkline
    holds "without it all is well again" soon ends_with 0 status
}

reload() {
    local before
    before=$(main)
    points=', voltage: {holding: 8, every: 500ms, report: {when: poll}}'
    configure ""
    mark
    holds "systemctl reload takes a new point" systemctl reload trunkline
    holds "by the same process" same_process "$before"
    holds "the new point comes" comes box/meter/voltage '"value":0,'
    holds "the unit is not left reloading" is SubState running
    sed -i 's/every: 500ms/every: 5/' $conf
    mark
    holds "systemctl reload of a wrong file fails" refuses systemctl reload trunkline
    holds "the same process runs on" same_process "$before"
    holds "and polls as before" comes box/meter/voltage '"value":0,'
    holds "the journal says file, line and column" told "$conf:[0-9]+:[0-9]+: "
    holds "an error has priority 3" told 'not reloaded, the configuration before runs on' -p 3..3
    mv $conf $conf.away
    holds "so does one of a file that vanished" refuses systemctl reload trunkline
    holds "and it polls still" comes box/meter/power 1234
    rm $conf.away
    points=''
    configure "" && systemctl reload trunkline
}

credentials() {
    configure "$cloud"
    mosquitto_passwd -c -b /tmp/passwords box "right horse" && chown mosquitto /tmp/passwords
    printf 'listener 1884 127.0.0.1\nallow_anonymous false\npassword_file /tmp/passwords\n' >/tmp/cloud.conf
    cloud_on
    systemctl stop trunkline
    mark
    holds "without its credential it does not start" refuses systemctl start trunkline
    holds "the journal says which is missing and what to do" told 'LoadCredential=cloud:/etc/trunkline/cloud.*systemctl edit trunkline'
    holds "it ended as a wrong configuration does" is ExecMainStatus 78
    holds "and is not tried again" is ActiveState failed
    drop_in 'LoadCredential=cloud:/etc/trunkline/cloud'
    holds "where its file is missing systemd refuses" refuses start_anew
    holds "and says that it is the credentials" is ExecMainStatus 243
    # Root's alone: the gateway itself may not read it, systemd hands it over.
    (umask 077 && echo "right horse" >/etc/trunkline/cloud)
    holds "with it the gateway starts" start_anew
    holds "the cloud took the password" clouded sites/box/meter/power 1234
    holds "which stands in nothing that it says" refuses says 'right horse' journal -o verbose
}
cloud_on() { mosquitto -c /tmp/cloud.conf -d >/dev/null 2>&1; soon nobody_less 1884; }
nobody_less() { mosquitto_pub -p "$1" -u box -P "right horse" -t hello -m there 2>/dev/null; }
cloud_off() { fuser -k -n tcp 1884 >/dev/null 2>&1; soon refuses nobody_less 1884; }

entries() { trunkline spool show --json | sed -n 's/.*"entries": \([0-9]*\).*/\1/p'; }
kept() { [ "$(entries)" -ge "$1" ]; }
killed() {
    local before was known
    cloud_off
    holds "without the cloud values are kept" soon kept 10
    was=$(main) known=$(entries) before=$(date -u +%FT%TZ)
    kill -9 "$was"
    holds "killed, it is started anew" soon another_process "$was"
    # What was measured in the last second may be gone, see docs/store-and-forward.md.
    holds "what was kept is there" soon kept $((known - 3))
    mosquitto -c /tmp/cloud.conf -d >/dev/null 2>&1
    # Values of before it was killed, by their time.
    mosquitto_sub -p 1884 -u box -P "right horse" -i witness -q 1 -C 20 -W 60 -t sites/box/meter/power >/tmp/arrived 2>/dev/null
    holds "and arrives once the cloud is back" older_than "$before" 5
    holds "everything is sent in the end" soon none_waits
    no_drop_in
    cloud_off
    configure ""
    start_anew
}
older_than() { [ "$(sed 's/.*"time":"\([^"]*\)".*/\1/' /tmp/arrived | awk -v then="$1" '$0 < then' | tee /dev/stderr | wc -l)" -ge "$2" ]; }
none_waits() { local left; left=$(entries); [ "${left:-0}" -le 3 ]; }

watchdog() {
    local was
    drop_in WatchdogSec=8s
    start_anew
    was=$(main)
    holds "the watchdog is that of the unit" is WatchdogUSec 8s
    # Longer than the watchdog's limit: a gateway that works is left alone.
    holds "it is fed while the gateway works" fed_for 12 "$was"
    mark
    kill -STOP "$was"
    holds "one that stands still is ended by the watchdog" soon says 'Watchdog timeout' journal -o cat
    holds "and started anew" soon another_process "$was"
    holds "and polls" comes box/meter/power 1234
    no_drop_in
    start_anew
}
fed_for() { # seconds, process
    local until=$((SECONDS + $1))
    while [ $SECONDS -lt $until ]; do same_process "$2" || return; a_moment 0.5; done
}

wrong_configuration() {
    configure "nonsense: 1"
    systemctl stop trunkline
    mark
    holds "a wrong configuration does not start" refuses systemctl start trunkline
    holds "it says where" told "$conf:[0-9]+:1: .*nonsense"
    # RestartSec is five seconds; a restart would show after seven.
    holds "and is not started in a loop" stays_down 7
    configure ""
    start_anew
}
stays_down() {
    local until=$((SECONDS + $1))
    while [ $SECONDS -lt $until ]; do is ActiveState failed && is NRestarts 0 || return; a_moment 0.5; done
}

around_it() {
    local was
    mount --bind /etc /etc && mount -o remount,bind,ro /etc
    holds "with a read-only etc it starts" start_anew
    holds "and polls there" comes box/meter/power 1234
    sed 's/500ms/400ms/g' $conf >/tmp/trial.yaml
    trunkline apply /tmp/trial.yaml --confirm 60s >/dev/null
    holds "what cannot be put in place is said" says "$conf cannot be written: .*[Rr]ead-only" trunkline confirm
    holds "and goes back" trunkline revert
    umount /etc

    systemctl stop trunkline
    rm -rf /var/lib/trunkline
    holds "a missing state directory is made" start_anew
    holds "for it alone" says '^750 trunkline trunkline$' stat -c '%a %U %G' /var/lib/trunkline

    was=$(main)
    holds "a second one by hand does not start" says 'another trunkline is running' runuser -u trunkline -- env RUNTIME_DIRECTORY=/run/trunkline STATE_DIRECTORY=/var/lib/trunkline timeout 20 trunkline run -c $conf
    # It has no rights in /run/trunkline without its folder named: the databases must hold it off.
    holds "nor one that looks elsewhere for the socket" says 'in use by another|another trunkline' runuser -u trunkline -- timeout 20 trunkline run --socket /tmp/second.sock -c $conf
    holds "nor one that root starts" says 'another trunkline is running' timeout 20 trunkline run -c $conf
    holds "the first runs on" same_process "$was"
    holds "and has all its files" comes box/meter/power 1234

    systemctl stop trunkline
    printf 'listener 1883 127.0.0.1\nallow_anonymous true\n' >/tmp/other.conf
    mosquitto -c /tmp/other.conf -d >/dev/null 2>&1
    soon mosquitto_pub -p 1883 -t hello -m there 2>/dev/null
    mark
    holds "a port in use stops the start" refuses systemctl start trunkline
    holds "which says which and what to do" told 'cannot listen on 127.0.0.1:1883: another program listens there'
    fuser -k -n tcp 1883 >/dev/null 2>&1
    holds "once it is free the gateway comes by itself" soon active
    holds "and has it" comes box/meter/power 1234
}

trial() {
    points=', extra: {holding: 8, every: 500ms, report: {when: poll}}'
    cp $conf /tmp/before.yaml
    configure "" && mv $conf /tmp/trial.yaml && cp -a /tmp/before.yaml $conf
    chmod 640 $conf && chgrp trunkline $conf
    points=''
    mark
    holds "a trial begins" says 'extra' trunkline apply /tmp/trial.yaml --confirm 8s
    holds "it runs" comes box/meter/extra '"value":0,'
    holds "and goes back by itself when nobody confirms" soon told 'taken back .not confirmed in time.'
    holds "without the point of the trial" stays_away box/meter/extra
    holds "the file was never touched" cmp /tmp/before.yaml $conf
    holds "a trial that nobody will confirm begins" trunkline apply /tmp/trial.yaml --confirm 20s
    holds "and runs when the power goes" comes box/meter/extra '"value":0,'
}

# What the configuration was copied with leaves it in memory for half a minute: it is the gateway that puts it on the disk.
after_the_cut() {
    holds "after a power cut it comes up with the machine" soon active
    holds "with the configuration of before the trial" stays_away box/meter/extra
    holds "and polls again" comes box/meter/power 1234
    holds "the journal says what became of the trial" says 'was not confirmed before the gateway ended' journalctl -b -u trunkline -o cat --no-pager
    holds "its databases are sound" refuses says 'damaged|set aside' journalctl -b -u trunkline -o cat --no-pager
    holds "the live system rates it 1.5 or better" systemd-analyze security --no-pager --threshold=15 trunkline
    figure "$(systemd-analyze security --no-pager trunkline | tail -1)"
    figure "$(grep VmRSS "/proc/$(main)/status" | tr -s '\t ' ' '), $(service MemoryCurrent) bytes in its cgroup"
}

stop_and_upgrade() {
    local was before
    mark
    holds "it stops cleanly and soon" within 10 systemctl stop trunkline
    holds "systemd calls it a success" is Result success
    holds "a stop is no error" silent journal -o cat -p 4
    holds "nothing of it is left" refuses pgrep -x trunkline
    systemctl start trunkline
    was=$(main) before=$(sha256sum <$conf)
    holds "an upgrade goes in while it runs" dpkg -i /goods/second.deb
    holds "the new one runs then" another_process "$was"
    holds "with the configuration as it was" test "$before" = "$(sha256sum <$conf)"
    holds "and values come" comes box/meter/power 1234
    systemctl stop trunkline
    dpkg -i /goods/first.deb >/dev/null 2>&1
    holds "a stopped service stays stopped over an upgrade" refuses active
    systemctl start trunkline
    holds "removal ends it" dpkg -r trunkline
    holds "and no process is left" refuses pgrep -x trunkline
    dpkg -i /goods/first.deb >/dev/null 2>&1
    holds "installed again it runs as before" comes box/meter/power 1234
    # Purged in its worst state.
    configure "nonsense: 1"
    systemctl restart trunkline 2>/dev/null
    holds "purge succeeds" dpkg -P trunkline
    holds "it takes the unit" says not-found service LoadState
    holds "and what was measured" refuses test -e /var/lib/trunkline
    holds "and its socket" refuses test -e /run/trunkline
    holds "but not the user, whose files may lie anywhere" getent passwd trunkline
    holds "and systemd has nothing that failed" says '^0 loaded' systemctl list-units --failed
}

first_boot() {
    install_it
    start
    reload
    asked
    serial_rights
    journald
    credentials
    killed
    watchdog
    wrong_configuration
    around_it
    trial
    echo "guest: cut the power"
    # Until it is off.
    read -r <>"$pause"
}

second_boot() {
    after_the_cut
    stop_and_upgrade
    systemctl poweroff
}

case $(cat /proc/cmdline) in
    *checks=installed*) figure "$(uname -r), $(systemctl --version | head -1)"; first_boot ;;
    *checks=powerless*) second_boot ;;
esac
