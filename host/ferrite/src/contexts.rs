//! Appliances that somebody works with, by names of their own: a file in the user's configuration folder.
//!
//! ```json
//! {"current": "lab", "contexts": {"lab": {"api": "http://10.0.0.2:8080", "token": "…"}}}
//! ```
//!
//! It holds secrets, so only its owner may read it; one that others can read is refused.

use std::env;
use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::Failure;
use crate::suggest::nearest;

/// How to reach an appliance. Not to be printed.
pub struct Context {
    /// Base address of its API.
    pub api: String,
    /// Its token.
    pub token: String,
}

/// The file.
pub struct Contexts {
    /// Where it is; unknown to programs without a home.
    path: Option<PathBuf>,
    current: Option<String>,
    all: Map<String, Value>,
}

impl Contexts {
    /// Reads the file of whoever runs this; empty while there is none.
    ///
    /// # Errors
    /// When there is one that cannot be read, or that others can read.
    pub fn open() -> Result<Self, Failure> {
        match path() {
            Some(path) => Self::at(&path),
            None => Ok(Self::empty(None)),
        }
    }

    fn empty(path: Option<PathBuf>) -> Self {
        Self {
            path,
            current: None,
            all: Map::new(),
        }
    }

    fn at(path: &Path) -> Result<Self, Failure> {
        let wrong =
            |why: &dyn std::fmt::Display| Failure::Here(format!("{}: {why}", path.display()));
        let mut contexts = Self::empty(Some(path.to_owned()));
        let text = match fs::read_to_string(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(contexts),
            text => text.map_err(|error| wrong(&error))?,
        };
        let mode = fs::metadata(path).map_err(|error| wrong(&error))?;
        if mode.permissions().mode() & 0o077 != 0 {
            return Err(wrong(&"others can read the tokens in it; `chmod 600` it"));
        }
        // The parser's message does not quote what it read.
        let mut value: Value = serde_json::from_str(&text).map_err(|error| wrong(&error))?;
        contexts.current = value["current"].as_str().map(str::to_owned);
        match value["contexts"].take() {
            Value::Object(all) => contexts.all = all,
            _ => return Err(wrong(&"it has no `contexts`")),
        }
        Ok(contexts)
    }

    /// The name of the context that is used when none is named.
    pub fn current(&self) -> Option<&str> {
        self.current.as_deref()
    }

    /// Names and addresses.
    pub fn list<'a>(&'a self) -> impl Iterator<Item = (&'a str, &'a str)> {
        let address = |value: &'a Value| value["api"].as_str().unwrap_or_default();
        let all = self.all.iter();
        all.map(move |(name, value)| (name.as_str(), address(value)))
    }

    /// The context called `name`.
    ///
    /// # Errors
    /// When there is none, with what was probably meant.
    pub fn get(&self, name: &str) -> Result<Context, Failure> {
        let value = self.all.get(name).ok_or_else(|| self.unknown(name))?;
        let text = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
        Ok(Context {
            api: text("api"),
            token: text("token"),
        })
    }

    fn unknown(&self, name: &str) -> Failure {
        let meant = nearest(name, self.all.keys().map(String::as_str));
        let hint = match meant {
            Some(meant) => format!("did you mean `{meant}`?"),
            None => "`ferrite context list` shows those there are".into(),
        };
        Failure::Here(format!("no context `{name}`; {hint}"))
    }

    /// Adds a context, or changes the one of that name. The first one becomes the current one.
    pub fn add(&mut self, name: &str, context: &Context) {
        let value = json!({"api": context.api, "token": context.token});
        self.all.insert(name.to_owned(), value);
        self.current.get_or_insert_with(|| name.to_owned());
    }

    /// Makes a context the current one, or none.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn choose(&mut self, name: Option<&str>) -> Result<(), Failure> {
        if let Some(name) = name {
            self.get(name)?;
        }
        self.current = name.map(str::to_owned);
        Ok(())
    }

    /// Takes a context away.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn remove(&mut self, name: &str) -> Result<(), Failure> {
        self.get(name)?;
        self.all.remove(name);
        if self.current.as_deref() == Some(name) {
            self.current = None;
        }
        Ok(())
    }

    /// Writes the file: all of it or nothing.
    ///
    /// # Errors
    /// When nobody knows where, or the file system refuses.
    pub fn save(&self) -> Result<(), Failure> {
        let text = format!(
            "{:#}\n",
            json!({"current": self.current, "contexts": self.all})
        );
        let path = self.path.as_deref().ok_or_else(|| {
            Failure::Here("neither XDG_CONFIG_HOME nor HOME says where contexts are kept".into())
        })?;
        let saved = write_private(path, &text);
        saved.map_err(|error| Failure::Here(format!("{}: {error}", path.display())))
    }
}

fn write_private(path: &Path, text: &str) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)?;
    }
    let new = path.with_extension(format!("new-{}", std::process::id()));
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&new)?;
    let written = file
        .write_all(text.as_bytes())
        .and_then(|()| file.sync_all());
    let moved = written.and_then(|()| fs::rename(&new, path));
    if moved.is_err() {
        // It would be in the way of the next attempt.
        let _ = fs::remove_file(&new);
    }
    moved
}

/// Where the file is (XDG Base Directory Specification), if whoever runs this has such a place.
fn path() -> Option<PathBuf> {
    let absolute = |name: &str| {
        let path = env::var_os(name).map(PathBuf::from);
        path.filter(|path| path.is_absolute())
    };
    let folder = absolute("XDG_CONFIG_HOME").or_else(|| Some(absolute("HOME")?.join(".config")))?;
    Some(folder.join("ferrite").join("contexts.json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            let name = format!("ferrite-contexts-{name}-{}", std::process::id());
            Self(env::temp_dir().join(name))
        }

        fn file(&self) -> PathBuf {
            self.0.join("ferrite/contexts.json")
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn context(api: &str) -> Context {
        Context {
            api: api.into(),
            token: "hunter2".into(),
        }
    }

    #[test]
    fn contexts_are_kept_where_nobody_else_reads() {
        let folder = Folder::new("kept");
        let mut contexts = Contexts::at(&folder.file()).unwrap();
        assert_eq!((contexts.current(), contexts.list().count()), (None, 0));
        contexts.add("lab", &context("http://a"));
        contexts.add("rack", &context("http://b"));
        contexts.save().unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&folder.file()), 0o600);
        assert_eq!(mode(folder.file().parent().unwrap()), 0o700);

        let mut again = Contexts::at(&folder.file()).unwrap();
        assert_eq!(again.current(), Some("lab"), "the first one");
        let all: Vec<_> = again.list().collect();
        assert_eq!(all, [("lab", "http://a"), ("rack", "http://b")]);
        assert_eq!(again.get("rack").unwrap().token, "hunter2");
        again.choose(Some("rack")).unwrap();
        again.remove("rack").unwrap();
        assert_eq!(again.current(), None);
        again.save().unwrap();
        assert_eq!(Contexts::at(&folder.file()).unwrap().list().count(), 1);
        let files = fs::read_dir(folder.file().parent().unwrap()).unwrap();
        assert_eq!(files.count(), 1, "something was left behind");
    }

    #[test]
    fn what_is_wrong_is_told_without_the_secret() {
        let folder = Folder::new("wrong");
        let mut contexts = Contexts::at(&folder.file()).unwrap();
        contexts.add("lab", &context("http://a"));
        contexts.save().unwrap();
        let failure = |name: &str| match contexts.get(name) {
            Err(failure) => failure.to_string(),
            Ok(_) => panic!("{name} is there"),
        };
        assert_eq!(failure("lba"), "no context `lba`; did you mean `lab`?");
        assert!(failure("else").contains("context list"));
        let opened = || match Contexts::at(&folder.file()) {
            Err(failure) => failure.to_string(),
            Ok(_) => panic!("it was read"),
        };
        fs::set_permissions(folder.file(), fs::Permissions::from_mode(0o644)).unwrap();
        assert!(opened().contains("chmod 600"), "{}", opened());
        fs::set_permissions(folder.file(), fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(folder.file(), "{\"token\": \"hunter2\"").unwrap();
        assert!(!opened().contains("hunter2"), "{}", opened());
        fs::write(folder.file(), "{}").unwrap();
        assert!(opened().contains("no `contexts`"));
    }
}
