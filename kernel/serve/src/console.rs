//! The web console: a page, its style and its program, as they lie in `kernel/serve/console`.
//!
//! Everybody gets them, for nothing is in them; the page asks for a token and calls the API with that. It may load nothing but
//! these files and talk to nobody but this appliance.

use alloc::format;
use alloc::string::String;

/// Headers of all of them. `no-cache` lets a browser keep a file, but not use it unasked: after an upgrade the next load has
/// the new ones.
pub const HEADERS: [(&str, &str); 5] = [
    (
        "Content-Security-Policy",
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'",
    ),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cache-Control", "no-cache"),
];

/// A file of the console.
#[derive(Clone, Copy, Debug)]
pub struct File {
    /// Where it is.
    pub path: &'static str,
    /// What it is.
    pub content_type: &'static str,
    /// What is in it.
    pub bytes: &'static [u8],
}

const HTML: &str = "text/html; charset=utf-8";
const CSS: &str = "text/css; charset=utf-8";
const JS: &str = "text/javascript; charset=utf-8";
const SVG: &str = "image/svg+xml";

macro_rules! files {
    ($($path:literal $content_type:ident $name:literal;)*) => {
        &[$(File {
            path: $path,
            content_type: $content_type,
            bytes: include_bytes!(concat!("../console/", $name)),
        }),*]
    };
}

const FILES: &[File] = files! {
    "/" HTML "index.html";
    "/console/console.css" CSS "console.css";
    "/console/icon.svg" SVG "icon.svg";
    "/console/app.js" JS "app.js";
    "/console/access.js" JS "access.js";
    "/console/api.js" JS "api.js";
    "/console/charts.js" JS "charts.js";
    "/console/dialogs.js" JS "dialogs.js";
    "/console/dom.js" JS "dom.js";
    "/console/format.js" JS "format.js";
    "/console/live.js" JS "live.js";
    "/console/machine.js" JS "machine.js";
    "/console/move.js" JS "move.js";
    "/console/overview.js" JS "overview.js";
    "/console/peers.js" JS "peers.js";
    "/console/schedules.js" JS "schedules.js";
    "/console/volumes.js" JS "volumes.js";
};

/// The file at `path`.
#[must_use]
pub fn file(path: &str) -> Option<&'static File> {
    FILES.iter().find(|file| file.path == path)
}

impl File {
    /// Its tag (RFC 9110, 8.8.3), which is another one when it changes: FNV-1a of its bytes.
    #[must_use]
    pub fn tag(&self) -> String {
        let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3);
        let hash = self.bytes.iter().fold(0xcbf2_9ce4_8422_2325, step);
        format!("\"{hash:016x}\"")
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use core::str;

    use super::*;

    fn text(file: &File) -> &'static str {
        str::from_utf8(file.bytes).unwrap()
    }

    /// What is between `begin` and `end`, wherever that is.
    fn between(
        text: &'static str,
        begin: &'static str,
        end: char,
    ) -> impl Iterator<Item = &'static str> {
        let after = text.split(begin).skip(1);
        after.filter_map(move |rest| Some(rest.split_once(end)?.0))
    }

    #[test]
    fn all_that_files_refer_to_is_there() {
        let mut references = 0;
        for one in FILES {
            let imports = between(text(one), "from './", '\'');
            let imports = imports.map(|name| format!("/console/{name}"));
            let links = between(text(one), "=\"/", '"').map(|name| format!("/{name}"));
            for path in imports.chain(links) {
                assert!(file(&path).is_some(), "{} refers to {path}", one.path);
                references += 1;
            }
        }
        assert!(references > 20);
    }

    #[test]
    fn nothing_is_inline_or_from_elsewhere() {
        for one in FILES {
            let text = text(one).replace("http://www.w3.org/2000/svg", "");
            for forbidden in [
                "http://",
                "https://",
                "innerHTML",
                "eval(",
                "<style",
                " style=",
                "localStorage",
            ] {
                assert!(!text.contains(forbidden), "{} has {forbidden}", one.path);
            }
        }
        assert!(text(file("/").unwrap()).contains("<script type=\"module\" src="));
    }

    /// A phone at the far end of a slow line has it within a second or two.
    #[test]
    fn all_of_it_is_small() {
        let compressed = |file: &File| miniz_oxide::deflate::compress_to_vec(file.bytes, 9).len();
        let total: usize = FILES.iter().map(compressed).sum();
        assert!(
            (20_000..60_000).contains(&total),
            "{total} bytes compressed"
        );
        let total: usize = FILES.iter().map(|file| file.bytes.len()).sum();
        assert!(total < 150_000, "{total} bytes");
    }

    /// A file that is in no table is missing in the browser only.
    #[test]
    fn all_files_of_the_folder_are_served() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/console");
        let found = std::fs::read_dir(folder).unwrap().count();
        assert_eq!(found, FILES.len());
    }
}
