//! Where commands find their appliance and put their answers.

use std::io::{BufRead, ErrorKind, IsTerminal, Write};

use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};
use serde_json::Value;

use crate::contexts::Contexts;
use crate::{Client, Failure};

/// What all commands share.
pub struct Console {
    /// Base address of the API, if it was given.
    pub api: Option<String>,
    /// Its token, likewise.
    pub token: Option<String>,
    /// The context that was named.
    pub context: Option<String>,
    /// Whether answers are for scripts.
    pub json: bool,
}

impl Console {
    /// The appliance that is meant: by its address, by a context, or because it was started last.
    pub fn client(&self) -> Result<Client, Failure> {
        if self.api.is_none() {
            let contexts = Contexts::open()?;
            let named = self.context.as_deref().filter(|name| !name.is_empty());
            let named = named.or(contexts.current());
            if let Some(name) = named {
                let context = contexts.get(name)?;
                let token = self.token.as_deref().unwrap_or(&context.token);
                return Ok(Client::new(&context.api, token));
            }
        }
        Client::find(self.api.as_deref(), self.token.as_deref())
    }

    /// Prints an answer: as it is, or as `text` makes it readable.
    pub fn show(&self, value: &Value, text: impl FnOnce(&Value) -> String) -> Result<(), Failure> {
        if self.json {
            print(&format!("{value:#}\n"))
        } else {
            print(&text(value))
        }
    }
}

/// Prints, and takes it for an answer when the reader has gone away (`ferrite log | head`).
pub fn print(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        result => Ok(result?),
    }
}

/// A line of standard input, which a terminal does not show.
pub fn ask_secret(prompt: &str) -> Result<String, Failure> {
    let stdin = std::io::stdin();
    let shown = match stdin.is_terminal() {
        true => tcgetattr(&stdin).ok(),
        false => None,
    };
    if let Some(shown) = &shown {
        let mut hidden = shown.clone();
        hidden.local_modes.remove(LocalModes::ECHO);
        eprint!("{prompt}");
        std::io::stderr().flush()?;
        tcsetattr(&stdin, OptionalActions::Now, &hidden).map_err(std::io::Error::from)?;
    }
    let mut line = String::new();
    let read = stdin.lock().read_line(&mut line);
    if let Some(shown) = &shown {
        tcsetattr(&stdin, OptionalActions::Now, shown).map_err(std::io::Error::from)?;
        eprintln!();
    }
    read?;
    Ok(line.trim().to_owned())
}
