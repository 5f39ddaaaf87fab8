//! `ferrite top`: what the appliance does at this moment.

mod transit;
mod view;

use std::io::IsTerminal;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

use clap::Args;

use crate::console::{Console, print};
use crate::measures::Measures;
use crate::{Client, Failure};
use view::View;

/// Home, without a cursor that jumps about.
const BEGIN: &str = "\x1b[?25l\x1b[H";
/// What is left of the frame before goes away.
const END: &str = "\x1b[J";
const CURSOR: &str = "\x1b[?25h";

/// Watch requests, throughput and latency of volumes, drives and memory
#[derive(Debug, Args)]
pub struct Top {
    /// Seconds from one look to the next
    #[arg(short, long, default_value = "2", value_parser = interval)]
    interval: Duration,
    /// Look so many times, then end
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Look once
    #[arg(long, conflicts_with = "count")]
    once: bool,
}

fn interval(text: &str) -> Result<Duration, &'static str> {
    let seconds: f64 = text.parse().map_err(|_| "a number of seconds")?;
    match seconds {
        0.1..=3600.0 => Ok(Duration::from_secs_f64(seconds)),
        _ => Err("from 0.1 to 3600 seconds"),
    }
}

impl Top {
    /// Does it, until it was often enough or Ctrl-C ends it.
    pub fn run(self, console: &Console) -> Result<(), Failure> {
        let count = if self.once { Some(1) } else { self.count };
        let is_live = !console.json && count.is_none() && std::io::stdout().is_terminal();
        let ends = on_interrupt()?;
        let result = self.watch(console, count, is_live, &ends);
        if is_live {
            print(CURSOR)?;
        }
        result
    }

    fn watch(
        &self,
        console: &Console,
        count: Option<u64>,
        is_live: bool,
        ends: &Receiver<()>,
    ) -> Result<(), Failure> {
        let client = console.client()?;
        let mut before = look(&client)?;
        if is_live {
            print("\x1b[2J")?;
        }
        let mut shown = 0;
        while ends.recv_timeout(self.interval) == Err(RecvTimeoutError::Timeout) {
            let now = match look(&client) {
                // It may be restarting; whoever watches sees it come back.
                Err(Failure::Unreachable(why)) if is_live => {
                    print(&frame(&format!("{why}\n")))?;
                    continue;
                }
                now => now?,
            };
            let view = View::between(&before, &now);
            before = now;
            if is_live {
                // One for how many more there are, one for the cursor.
                let room = rows().saturating_sub(view.lines_beside() + 2);
                print(&frame(&view.text(room.max(1))))?;
            } else if console.json {
                print(&format!("{}\n", view.json()))?;
            } else {
                let gap = if shown > 0 { "\n" } else { "" };
                print(&format!("{gap}{}", view.text(usize::MAX)))?;
            }
            shown += 1;
            if count.is_some_and(|count| shown >= count) {
                break;
            }
        }
        Ok(())
    }
}

fn look(client: &Client) -> Result<Measures, Failure> {
    Ok(Measures::read(&client.get_text("/metrics")?))
}

/// Lines of the terminal.
fn rows() -> usize {
    let size = rustix::termios::tcgetwinsize(std::io::stdout());
    // A line to another machine may know nothing of its size.
    match size.map_or(0, |size| size.ws_row) {
        0 => 24,
        rows => rows.into(),
    }
}

/// A text in place of the one before it.
fn frame(text: &str) -> String {
    let lines: String = text.lines().map(|line| format!("{line}\x1b[K\n")).collect();
    format!("{BEGIN}{lines}{END}")
}

/// What hears of Ctrl-C.
fn on_interrupt() -> Result<Receiver<()>, Failure> {
    let (told, ends) = channel();
    ctrlc::set_handler(move || {
        // Nobody listens any more when it is about to end anyway.
        let _ = told.send(());
    })
    .map_err(|error| Failure::Here(format!("Ctrl-C cannot be listened for: {error}")))?;
    Ok(ends)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_takes_the_place_of_the_one_before() {
        let shown = frame("a\nb\n");
        assert_eq!(shown, "\x1b[?25l\x1b[Ha\x1b[K\nb\x1b[K\n\x1b[J");
        assert_eq!(interval("0.5"), Ok(Duration::from_millis(500)));
        assert!(interval("0").is_err() && interval("x").is_err() && interval("NaN").is_err());
    }
}
