//! Names of addresses in the image: the function that the linker placed there, and the one that it was written in.

use std::path::Path;

use addr2line::Loader;
use anyhow::{Result, anyhow};

/// What is known of one instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The function in the image.
    pub symbol: String,
    /// The function of the source, inlined or not.
    pub function: String,
    /// The room or dependency it was written for: that of the innermost function which is not the language's own library.
    pub room: String,
}

/// Line tables and symbols of the linked image.
pub struct Names {
    loader: Loader,
}

impl Names {
    /// Reads them.
    ///
    /// # Errors
    /// When the file is not readable or has none.
    pub fn read(image: &Path) -> Result<Self> {
        let loader = Loader::new(image).map_err(|error| anyhow!("{}: {error}", image.display()))?;
        Ok(Self { loader })
    }

    /// What is at `address`.
    #[must_use]
    pub fn place(&self, address: u64) -> Place {
        let symbol = match self.loader.find_symbol(address) {
            Some(name) => readable(name),
            None => "(no symbol)".to_owned(),
        };
        let mut frames = Vec::new();
        if let Ok(mut found) = self.loader.find_frames(address) {
            // A broken table costs names, not the profile.
            while let Ok(Some(frame)) = found.next() {
                if let Some(name) = &frame.function
                    && let Ok(name) = name.raw_name()
                {
                    frames.push(readable(&name));
                }
            }
        }
        if frames.is_empty() {
            frames.push(symbol.clone());
        }
        let own = frames.iter().find(|name| !is_language(room(name)));
        Place {
            room: own.map_or_else(|| outside(&symbol), |name| room(name).to_owned()),
            function: frames.swap_remove(0),
            symbol,
        }
    }
}

fn readable(mangled: &str) -> String {
    format!("{:#}", rustc_demangle::demangle(mangled))
}

/// Crates that come with the compiler.
fn is_language(name: &str) -> bool {
    matches!(
        name,
        "core" | "alloc" | "compiler_builtins" | "__rustc" | ""
    )
}

/// A room for what no room wrote: copies and comparisons of memory, or the language's library.
fn outside(symbol: &str) -> String {
    let plain = symbol.rsplit("::").next().unwrap_or(symbol);
    match plain {
        "memcpy" | "memmove" | "memset" | "memcmp" | "bcmp" => format!("({plain})"),
        _ => "(language)".to_owned(),
    }
}

/// The crate at the front of a function's path.
fn room(function: &str) -> &str {
    let path = function.trim_start_matches(['<', '&', '*', '(', '[', ' ']);
    let path = ["mut ", "const ", "dyn "]
        .iter()
        .fold(path, |path, word| path.strip_prefix(word).unwrap_or(path))
        .trim_start_matches(['<', '&']);
    match path.split_once("::") {
        Some((first, _))
            if first
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'_') =>
        {
            first
        }
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rooms_are_at_the_front_of_paths() {
        assert_eq!(room("net::stack::Stack::poll"), "net");
        assert_eq!(
            room("<store::Store<nvme::Drive>>::write::{closure#0}"),
            "store"
        );
        assert_eq!(
            room("<&mut serve::nbd::Session as core::future::Future>::poll"),
            "serve"
        );
        assert_eq!(room("memcpy"), "");
        assert_eq!(outside("memcpy"), "(memcpy)");
        assert_eq!(outside("<u8 as core::fmt::Display>::fmt"), "(language)");
    }
}
