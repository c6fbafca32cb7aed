//! Puts the view on the terminal, redrawn in place; or plain lines where standard output is no terminal.
//! The cursor is hidden while it draws and comes back when the screen is dropped, whatever ends the demo.

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use crate::demo::view::{self, Scene};

/// Standard output.
#[derive(Debug)]
pub(super) struct Screen {
    terminal: bool,
    drawn: usize,
}

impl Screen {
    /// Looks whether somebody is watching.
    pub(super) fn open() -> Self {
        let terminal = io::stdout().is_terminal();
        if terminal {
            put("\x1b[?25l");
        }
        Self { terminal, drawn: 0 }
    }

    /// How often to show something: calm for eyes, sparse for logs.
    pub(super) const fn pace(&self) -> Duration {
        if self.terminal { Duration::from_millis(500) } else { Duration::from_secs(5) }
    }

    /// Shows the scene.
    pub(super) fn show(&mut self, scene: &Scene) {
        if !self.terminal {
            put(&format!("{}\n", view::log_line(scene)));
            return;
        }
        let (columns, rows) = size();
        let mut lines = view::draw(scene, columns);
        // More lines than the terminal has would scroll, and moving up would no longer find the first.
        lines.truncate(rows.saturating_sub(1));
        let mut out = if self.drawn > 0 { format!("\x1b[{}A\r", self.drawn) } else { String::new() };
        for line in &lines {
            out.push_str(line);
            out.push_str("\x1b[K\n");
        }
        out.push_str("\x1b[J");
        put(&out);
        self.drawn = lines.len();
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        if self.terminal {
            put("\x1b[?25h\n");
        }
    }
}

fn size() -> (usize, usize) {
    rustix::termios::tcgetwinsize(io::stdout()).map_or((80, 24), |w| {
        // A serial console says zero.
        let or = |n: u16, other: usize| if n == 0 { other } else { usize::from(n) };
        (or(w.ws_col, 80), or(w.ws_row, 24))
    })
}

/// A reader that has gone does not stop the demo: Ctrl-C does.
fn put(text: &str) {
    let mut out = io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}
