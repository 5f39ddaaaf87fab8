//! Dependencies between rooms point one way: towards `world`.

use std::collections::BTreeMap;

use tidy::texts;

/// Who may use whom. What a room's tests use beyond that is in [`FOR_TESTS`].
const ARROWS: [(&str, &[&str]); 34] = [
    ("world", &[]),
    ("wire", &[]),
    ("config", &[]),
    ("symbols", &[]),
    ("hal", &[]),
    ("cpu", &[]),
    ("exec", &["world"]),
    ("store", &["world", "cpu", "exec"]),
    ("volume", &["store", "exec", "world"]),
    ("upkeep", &["volume", "store", "exec", "world"]),
    ("access", &["store", "exec", "world"]),
    ("net", &["world", "exec"]),
    ("origin", &["volume", "wire", "net", "exec", "world"]),
    ("peer", &["access", "store", "net", "exec", "world"]),
    (
        "migration",
        &["peer", "upkeep", "volume", "store", "net", "exec", "world"],
    ),
    (
        "serve",
        &[
            "access",
            "migration",
            "peer",
            "upkeep",
            "volume",
            "store",
            "wire",
            "net",
            "exec",
            "world",
        ],
    ),
    ("pci", &["hal"]),
    ("nvme", &["hal", "pci", "exec", "world"]),
    ("virtio", &["hal", "pci", "exec", "world"]),
    ("boot", &["hal", "symbols"]),
    (
        "appliance",
        &[
            "boot",
            "hal",
            "pci",
            "nvme",
            "virtio",
            "serve",
            "origin",
            "migration",
            "peer",
            "access",
            "upkeep",
            "volume",
            "store",
            "net",
            "wire",
            "config",
            "exec",
            "world",
        ],
    ),
    ("qemu", &[]),
    ("ferrite", &["qemu", "config", "store", "exec", "world"]),
    ("xtask", &["qemu", "symbols"]),
    (
        "sim",
        &[
            "serve",
            "origin",
            "peer",
            "migration",
            "access",
            "upkeep",
            "volume",
            "store",
            "net",
            "wire",
            "config",
            "exec",
            "world",
        ],
    ),
    ("guest", &["ferrite", "qemu", "wire"]),
    ("bringup", &["guest", "qemu"]),
    ("offline", &["store", "exec", "world"]),
    ("golden", &["offline", "store", "exec", "world"]),
    (
        "crashes",
        &[
            "offline", "guest", "ferrite", "qemu", "store", "exec", "world",
        ],
    ),
    (
        "bench",
        &[
            "offline", "guest", "ferrite", "qemu", "store", "wire", "exec", "world",
        ],
    ),
    ("models", &[]),
    ("tidy", &[]),
    (
        "fuzz",
        &[
            "sim",
            "serve",
            "origin",
            "peer",
            "migration",
            "access",
            "upkeep",
            "volume",
            "store",
            "net",
            "wire",
            "config",
            "exec",
            "world",
        ],
    ),
];

/// What tests of these rooms may use in addition.
const FOR_TESTS: [(&str, &[&str]); 2] = [("serve", &["store"]), ("origin", &["serve", "store"])];

#[test]
fn arrows_point_towards_world() {
    let manifests = manifests();
    let mut offences = Vec::new();
    for (name, manifest) in &manifests {
        let Some((_, allowed)) = ARROWS.iter().find(|(room, _)| room == name) else {
            offences.push(format!("{name}: a new room; say in ARROWS what it may use"));
            continue;
        };
        let tests = FOR_TESTS
            .iter()
            .find(|(room, _)| room == name)
            .map_or(&[][..], |(_, more)| more);
        for (kind, more) in [
            ("dependencies", &[][..]),
            ("build-dependencies", &[][..]),
            ("dev-dependencies", tests),
        ] {
            for used in rooms_in(manifest, kind, &manifests) {
                if !allowed.contains(&used.as_str()) && !more.contains(&used.as_str()) {
                    offences.push(format!("{name} → {used} ({kind})"));
                }
            }
        }
    }
    assert!(
        offences.is_empty(),
        "arrows that point the wrong way:\n  {}",
        offences.join("\n  ")
    );
}

#[test]
fn the_table_itself_has_no_circle() {
    let mut placed: Vec<&str> = Vec::new();
    // Each round places the rooms whose targets are placed; a circle never is.
    for _ in 0..ARROWS.len() {
        for (room, targets) in ARROWS {
            if !placed.contains(&room) && targets.iter().all(|target| placed.contains(target)) {
                placed.push(room);
            }
        }
    }
    let left: Vec<_> = ARROWS
        .iter()
        .map(|(room, _)| room)
        .filter(|room| !placed.contains(room))
        .collect();
    assert!(left.is_empty(), "in a circle or unknown: {left:?}");
}

#[test]
fn versions_stand_in_the_root_manifest_only() {
    let mut offences = Vec::new();
    for (name, manifest) in &manifests() {
        if name == "fuzz" {
            continue;
        }
        for kind in ["dependencies", "build-dependencies", "dev-dependencies"] {
            let Some(table) = manifest.get(kind).and_then(toml::Value::as_table) else {
                continue;
            };
            for (used, value) in table {
                if value.get("workspace").and_then(toml::Value::as_bool) != Some(true) {
                    offences.push(format!("{name}: {used}"));
                }
            }
        }
    }
    assert!(
        offences.is_empty(),
        "dependencies without `workspace = true`:\n  {}",
        offences.join("\n  ")
    );
}

#[test]
fn every_room_has_the_house_lints() {
    for (name, manifest) in &manifests() {
        if name == "fuzz" {
            continue;
        }
        let inherited = manifest
            .get("lints")
            .and_then(|lints| lints.get("workspace"));
        assert_eq!(
            inherited.and_then(toml::Value::as_bool),
            Some(true),
            "{name} lacks `[lints] workspace = true`"
        );
    }
}

/// All packages of the tree by name.
fn manifests() -> BTreeMap<String, toml::Table> {
    let mut manifests = BTreeMap::new();
    for file in texts()
        .into_iter()
        .filter(|file| file.path.ends_with("/Cargo.toml"))
    {
        let manifest: toml::Table = file
            .text
            .parse()
            .unwrap_or_else(|error| panic!("{}: {error}", file.path));
        let name = manifest["package"]["name"]
            .as_str()
            .expect("a package's name")
            .to_owned();
        let name = if file.path.starts_with("tests/fuzz/") {
            "fuzz".to_owned()
        } else {
            name
        };
        manifests.insert(name, manifest);
    }
    assert!(manifests.len() > 15, "the tree was not found");
    manifests
}

fn rooms_in(
    manifest: &toml::Table,
    kind: &str,
    all: &BTreeMap<String, toml::Table>,
) -> Vec<String> {
    let used = manifest.get(kind).and_then(toml::Value::as_table);
    used.into_iter()
        .flatten()
        .map(|(name, _)| name.clone())
        .filter(|name| all.contains_key(name))
        .collect()
}
