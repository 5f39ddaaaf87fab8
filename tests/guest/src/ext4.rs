//! A Linux machine that keeps an ext4 file system on a volume, loses power, and looks again.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use qemu::instance::target_dir;
use qemu::{Boot, Machine, Network, Running};

use crate::Scratch;
use crate::linux::LinuxClient;

/// How long the client may take for each phase, translated and on a busy machine.
const PHASE_LIMIT: Duration = Duration::from_secs(240);
/// Files that must be synced before the client loses power.
const FILES: u32 = 40;

/// Makes a file system on `export` of the server at the host's `port`, writes and syncs files, kills the client in the
/// middle, then mounts again: every synced file is there, and `e2fsck -fn` finds nothing wrong.
///
/// # Errors
/// What went wrong, with the client's console.
pub fn survives_a_kill(port: u16, export: &str, name: &str) -> Result<()> {
    let client = LinuxClient::prepare(&target_dir().join("linux-client"))?;
    let scratch = Scratch::new(&format!("ext4-{name}"));
    let start = |phase: &str, files: u32| {
        let command_line = LinuxClient::command_line(phase, port, export, files);
        let boot = Boot::Kernel {
            elf: client.kernel.clone(),
            command_line,
        };
        let mut machine = Machine::new(boot, scratch.path());
        machine.memory_mib = 256;
        machine.networks = vec![Network::User];
        machine.extra = vec![
            "-initrd".into(),
            client.initrd.to_string_lossy().into_owned(),
        ];
        machine.start()
    };

    let mut writer = start("write", 0)?;
    say(&mut writer, &format!("synced {FILES}"))?;
    writer.kill()?;
    let synced = writer.serial().matches("client: synced ").count();
    drop(writer);

    let mut reader = start("verify", u32::try_from(synced)?)?;
    say(&mut reader, &format!("verified {synced} files"))?;
    say(&mut reader, "file system is clean")?;
    let status = reader.wait(PHASE_LIMIT)?;
    ensure!(status.success(), "the client ended with {status}");
    Ok(())
}

/// Waits until the client says `what`; anything that it calls failed comes first as an error.
fn say(machine: &mut Running, what: &str) -> Result<()> {
    let said = machine.wait_for_any(&[&format!("client: {what}"), "client: failed"], PHASE_LIMIT);
    let line = said.with_context(|| format!("waiting for `{what}`"))?;
    ensure!(
        !line.contains("client: failed"),
        "{line}\n{}",
        machine.evidence()
    );
    Ok(())
}
