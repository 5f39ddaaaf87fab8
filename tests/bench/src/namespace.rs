//! A network namespace with one tap in it, so that a machine's TCP is reached without disturbing the host's network.

use std::fs::File;
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, ensure};
use guest::clients::run;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// The tap's name inside the namespace.
pub const TAP: &str = "tap0";
/// The host's address on the tap.
pub const HOST: &str = "10.77.0.1";
/// The guest's address on the tap.
pub const GUEST_ADDRESS: &str = "10.77.0.2";
/// Where `ip netns` keeps namespaces (ip-netns(8)).
const NAMESPACES: &str = "/run/netns";

/// A namespace of ours; it goes with the value, and the tap with it.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    outside: File,
    inside: File,
}

impl Namespace {
    /// Makes the namespace and the tap.
    ///
    /// # Errors
    /// When this is not root, or the host has no network namespaces or taps.
    pub fn new() -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("ferrite-bench-{}-{number}", std::process::id());
        ip(&["netns", "add", &name])?;
        let made = Self::open(&name).and_then(|namespace| {
            namespace.add_tap()?;
            Ok(namespace)
        });
        if made.is_err() {
            // The reason is reported; that there is nothing to remove is no news.
            let _ = ip(&["netns", "delete", &name]);
        }
        made
    }

    fn open(name: &str) -> Result<Self> {
        let outside = File::open("/proc/self/ns/net").context("no network namespaces")?;
        let path = format!("{NAMESPACES}/{name}");
        let inside = File::open(&path).with_context(|| format!("cannot open {path}"))?;
        Ok(Self {
            name: name.into(),
            outside,
            inside,
        })
    }

    fn add_tap(&self) -> Result<()> {
        let ip = |words: &[&str]| ip(&[&["-n", &self.name], words].concat());
        ip(&["link", "set", "lo", "up"])?;
        ip(&["tuntap", "add", "dev", TAP, "mode", "tap", "vnet_hdr"])?;
        ip(&["address", "add", &format!("{HOST}/24"), "dev", TAP])?;
        ip(&["link", "set", TAP, "up"])
    }

    /// Tells the host's side where `address` is, so that it does not ask.
    ///
    /// # Errors
    /// When the system refuses.
    pub fn introduce(&self, address: &str, hardware: &str) -> Result<()> {
        let words = [
            "neigh",
            "replace",
            address,
            "lladdr",
            hardware,
            "dev",
            TAP,
            "nud",
            "permanent",
        ];
        ip(&[&["-n", &self.name][..], &words].concat())
    }

    /// Does `work` inside. Sockets that it makes and programs that it starts belong to the namespace for good; only the
    /// calling thread moves, and it comes back.
    ///
    /// # Errors
    /// Those of `work`, or when the system does not let this thread in or out.
    pub fn within<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        enter(&self.inside)?;
        let result = work();
        enter(&self.outside)?;
        result
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(error) = ip(&["netns", "delete", &self.name]) {
            eprintln!("the network namespace {} is left: {error:#}", self.name);
        }
    }
}

fn enter(namespace: &File) -> Result<()> {
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
        .context("cannot change the network namespace")
}

fn ip(words: &[&str]) -> Result<()> {
    let said = run("iproute2", Command::new("ip").args(words))?;
    ensure!(said.trim().is_empty(), "ip {}: {said}", words.join(" "));
    Ok(())
}
