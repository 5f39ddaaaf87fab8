//! `ferrite context …`: several appliances, by names of one's own.

use clap::Subcommand;
use serde_json::{Value, json};

use crate::console::{Console, ask_secret};
use crate::contexts::{Context, Contexts};
use crate::describe::{items, text_of};
use crate::output::table;
use crate::{Client, Failure};

/// Give appliances names, and choose which one is meant
#[derive(Debug, Subcommand)]
pub enum Choice {
    /// Add the appliance that --api names, or change it; the token is --token, or asked for
    Add {
        /// What to call it
        #[arg(value_parser = name)]
        name: String,
    },
    /// Say which appliance is meant from now on
    Use {
        /// Which; left out: the one that was started last from this checkout
        name: Option<String>,
    },
    /// List them, without their tokens
    List,
    /// Take one away
    Remove {
        /// Which
        name: String,
    },
}

fn name(text: &str) -> Result<String, &'static str> {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "._-".contains(letter);
    match (1..=63).contains(&text.len()) && text.chars().all(plain) {
        true => Ok(text.to_owned()),
        false => Err("1 to 63 letters, digits, . _ -"),
    }
}

impl Choice {
    /// Does it.
    pub fn run(self, console: &Console) -> Result<(), Failure> {
        let mut contexts = Contexts::open()?;
        match self {
            Self::List => return console.show(&list(&contexts), text),
            Self::Add { name } => {
                let context = given(console)?;
                contexts.add(&name, &context);
                contexts.save()?;
                return console.show(&added(&name, &context), |added| {
                    format!("{name}: {}\n", text_of(added, "answers"))
                });
            }
            Self::Use { name } => contexts.choose(name.as_deref())?,
            Self::Remove { name } => contexts.remove(&name)?,
        }
        contexts.save()?;
        console.show(&list(&contexts), text)
    }
}

/// The appliance that the command line and its user name.
fn given(console: &Console) -> Result<Context, Failure> {
    let api = console.api.as_deref().unwrap_or_default();
    let api = api.trim_end_matches('/');
    if !api.starts_with("http://") || api.len() == "http://".len() {
        let why = "--api URL is needed, e.g. --api http://10.0.0.2:8080";
        return Err(Failure::Here(why.into()));
    }
    let token = match &console.token {
        Some(token) => token.clone(),
        None => ask_secret("token: ")?,
    };
    if token.is_empty() {
        return Err(Failure::Here("a token is needed".into()));
    }
    Ok(Context {
        api: api.to_owned(),
        token,
    })
}

/// Whether it answers; a context may be added before its appliance is there.
fn added(name: &str, context: &Context) -> Value {
    let node = Client::new(&context.api, &context.token).get("/v1/node");
    let answers = match node {
        Ok(node) => format!(
            "{}, ferrite {}",
            text_of(&node, "name"),
            text_of(&node, "version")
        ),
        Err(failure) => format!("added, but {failure}"),
    };
    json!({"name": name, "api": context.api, "answers": answers})
}

fn list(contexts: &Contexts) -> Value {
    let all = contexts.list().map(|(name, api)| {
        json!({"name": name, "api": api, "current": contexts.current() == Some(name)})
    });
    json!({"contexts": all.collect::<Vec<_>>()})
}

fn text(list: &Value) -> String {
    let rows = items(list, "contexts").iter().map(|context| {
        let mark = match context["current"].as_bool() {
            Some(true) => "*",
            _ => "",
        };
        vec![
            text_of(context, "name"),
            text_of(context, "api"),
            mark.into(),
        ]
    });
    table(&["NAME", "API", "IN USE"], &rows.collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_show_which_one_is_meant() {
        let list = json!({"contexts": [{"name": "lab", "api": "http://a", "current": true},
            {"name": "rack", "api": "http://b", "current": false}]});
        assert_eq!(
            text(&list),
            "NAME  API       IN USE\nlab   http://a  *\nrack  http://b\n"
        );
        assert!(name("rack-3.a").is_ok() && name("").is_err() && name("a b").is_err());
    }

    #[test]
    fn a_context_needs_an_address() {
        let console = |api: Option<&str>| Console {
            api: api.map(str::to_owned),
            token: Some("t".into()),
            context: None,
            json: false,
        };
        for api in [None, Some(""), Some("http://"), Some("10.0.0.2:8080")] {
            assert!(given(&console(api)).is_err(), "{api:?}");
        }
        let context = given(&console(Some("http://10.0.0.2:8080/"))).map(|context| context.api);
        assert_eq!(context.ok().as_deref(), Some("http://10.0.0.2:8080"));
    }
}
