//! `ferrite support`: all that is to be known of an appliance, in one file, for whoever is asked to help.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use serde_json::{Map, Value, json};

use super::{pages, snapshots};
use crate::console::Console;
use crate::describe::items;
use crate::{Client, Failure};

/// What is asked for in one piece: its name in the file, and where the API has it.
const PIECES: [(&str, &str); 10] = [
    ("node", "/v1/node"),
    ("configuration", "/v1/node/configuration"),
    ("drives", "/v1/drives"),
    ("jobs", "/v1/jobs"),
    ("schedules", "/v1/schedules"),
    ("tokens", "/v1/tokens"),
    ("peers", "/v1/peers"),
    ("audit", "/v1/audit?limit=1000"),
    ("log_levels", "/v1/log/levels"),
    ("log", "/v1/log?tail=10000"),
];

/// Write all that is to be known of the appliance to one file, without secrets
#[derive(Debug, Args)]
pub struct Support {
    /// Where to; it must not be there yet
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

impl Support {
    /// Does it.
    pub fn run(self, console: &Console) -> Result<(), Failure> {
        let client = console.client()?;
        let bundle = collect(&client)?;
        let path = self.output.unwrap_or_else(|| default_path(&bundle));
        // The token that was used would be there only by mistake; but then it must not be.
        let text = client.redact(&format!("{bundle:#}\n"));
        write_new(&path, &text)?;
        let missing = bundle["missing"].as_object().map_or(0, Map::len);
        let answer = json!({"file": path.display().to_string(), "bytes": text.len(), "missing": bundle["missing"]});
        console.show(&answer, |_| {
            let mut told = format!(
                "{}: {} of {}, {}, {} log lines; without secrets\n",
                path.display(),
                qemu::size::human(text.len() as u64),
                bundle["node"]["name"].as_str().unwrap_or("an appliance"),
                volumes(items(&bundle, "volumes").len()),
                items(&bundle["log"], "lines").len()
            );
            if missing > 0 {
                told += "not all could be had; `missing` in it says why\n";
            }
            told
        })
    }
}

fn volumes(count: usize) -> String {
    match count {
        1 => "1 volume".into(),
        many => format!("{many} volumes"),
    }
}

/// Everything. What cannot be had is told under `missing`; only an appliance that does not answer at all is a failure.
fn collect(client: &Client) -> Result<Value, Failure> {
    let mut bundle = Map::new();
    let mut missing = Map::new();
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    bundle.insert("tool".into(), env!("CARGO_PKG_VERSION").into());
    bundle.insert(
        "made_at_unix".into(),
        now.map_or(0, |now| now.as_secs()).into(),
    );
    let mut keep = |name: &str, piece: Result<Value, Failure>| -> Result<(), Failure> {
        match piece {
            Ok(value) => {
                bundle.insert(name.into(), value);
            }
            Err(Failure::Unreachable(why)) => return Err(Failure::Unreachable(why)),
            Err(why) => {
                missing.insert(name.into(), why.to_string().into());
            }
        }
        Ok(())
    };
    for (name, path) in PIECES {
        keep(name, client.get(path))?;
    }
    let all = pages(client, "/v1/volumes", "volumes");
    let names: Vec<String> = { all.iter().flatten() }
        .filter_map(|volume| volume["name"].as_str().map(str::to_owned))
        .collect();
    keep("volumes", all.map(Value::from))?;
    let mut of_all = Map::new();
    for name in names {
        // It may just have been deleted.
        if let Ok(list) = snapshots(client, &name)
            && !list.is_empty()
        {
            of_all.insert(name, list.into());
        }
    }
    keep("snapshots", Ok(of_all.into()))?;
    let metrics = client.get_text("/metrics");
    keep("metrics", metrics.map(|text| text.lines().collect()))?;
    bundle.insert("missing".into(), missing.into());
    Ok(bundle.into())
}

fn default_path(bundle: &Value) -> PathBuf {
    let name = bundle["node"]["name"].as_str().unwrap_or("appliance");
    // Names are for people; a file's has no separators.
    let name = name.replace(|letter: char| !letter.is_ascii_alphanumeric(), "-");
    format!("ferrite-support-{name}-{}.json", bundle["made_at_unix"]).into()
}

/// Writes a file that only its owner can read, and that was not there.
fn write_new(path: &Path, text: &str) -> Result<(), Failure> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let written = options
        .open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => Failure::Here(format!(
            "{} is there already; --output names another file",
            path.display()
        )),
        _ => Failure::Here(format!("{}: {error}", path.display())),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::net::TcpListener;

    /// An appliance that answers everything with the path that was asked for, or refuses it.
    fn parrot(refused: &'static str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    stream.read_exact(&mut byte).unwrap();
                    head.extend(byte);
                }
                let head = String::from_utf8(head).unwrap();
                let path = head.split(' ').nth(1).unwrap();
                let (status, body) = match path {
                    path if path == refused => (
                        "403 Forbidden",
                        json!({"detail": "an admin may do that"}).to_string(),
                    ),
                    "/metrics" => ("200 OK", "up 1\n".to_owned()),
                    "/v1/volumes" => ("200 OK", json!({"volumes": [{"name": "db"}]}).to_string()),
                    path if path.contains("/snapshots?") => {
                        ("200 OK", json!({"snapshots": [{"name": "s"}]}).to_string())
                    }
                    path => (
                        "200 OK",
                        json!({"path": path, "token": "hunter2"}).to_string(),
                    ),
                };
                let length = body.len();
                let answer = format!(
                    "HTTP/1.1 {status}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
                );
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        base
    }

    #[test]
    fn all_of_it_is_there_but_for_what_was_refused_and_the_token() {
        let client = Client::new(&parrot("/v1/tokens"), "hunter2");
        let bundle = collect(&client).unwrap();
        for (name, path) in PIECES {
            if name != "tokens" {
                assert_eq!(bundle[name]["path"], path, "{bundle}");
            }
        }
        assert_eq!(
            bundle["missing"]["tokens"],
            "an admin may do that (HTTP 403)"
        );
        assert_eq!(bundle["snapshots"]["db"][0]["name"], "s");
        assert_eq!(bundle["metrics"], json!(["up 1"]));
        let text = client.redact(&bundle.to_string());
        assert!(!text.contains("hunter2"), "{text}");
    }

    #[test]
    fn nothing_is_overwritten() {
        use std::os::unix::fs::PermissionsExt;
        let path = std::env::temp_dir().join(format!("ferrite-support-{}", std::process::id()));
        write_new(&path, "one").unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(write_new(&path, "two").unwrap_err().exit_code(), 1);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one");
        std::fs::remove_file(&path).unwrap();
    }
}
