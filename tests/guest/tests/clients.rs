//! Every client and workload against a reference server, and the machine without our image: when these fail, the tests
//! of the image prove nothing.

use std::fs;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use guest::nbd::{EIO, Nbd, NbdError};
use guest::reference::Reference;
use guest::workload::Workload;
use guest::{Rider, Scratch, clients, ext4};
use qemu::{Boot, Bus, Drive, Firmware, Machine, Network};

const LIMIT: Duration = Duration::from_secs(10);

#[test]
fn nbdinfo_reads_a_reference() {
    let server = Reference::start(64 << 20).unwrap();
    let info = clients::info(&server.uri()).unwrap();
    assert_eq!(info["export-size"], 64 << 20);
    assert_eq!(info["can_multi_conn"], true);
    assert_eq!(clients::list(&server.uri()).unwrap(), [""]);
    clients::qemu_io(&server.uri(), &["write -P 1 1M 1M"]).unwrap();
    let map = clients::map(&server.uri(), "base:allocation").unwrap();
    assert_eq!(
        map,
        [
            (0, 1 << 20, 3),
            (1 << 20, 1 << 20, 0),
            (2 << 20, 62 << 20, 3)
        ]
    );
}

#[test]
fn nbdcopy_round_trip_on_a_reference() {
    let (server, scratch) = (Reference::start(64 << 20).unwrap(), Scratch::new("copy"));
    clients::copy_round_trip(&server.uri(), 32 << 20, &scratch).unwrap();
}

#[test]
fn qemu_io_patterns_on_a_reference() {
    let server = Reference::start(64 << 20).unwrap();
    clients::patterns(&server.uri()).unwrap();
    let wrong = clients::qemu_io(&server.uri(), &["write -P 1 0 4k", "read -P 2 0 4k"]);
    assert!(wrong.is_err(), "a wrong pattern must be noticed");
}

#[test]
fn fio_verifies_a_reference() {
    let (server, scratch) = (Reference::start(64 << 20).unwrap(), Scratch::new("fio"));
    clients::fio_verify(&server.uri(), 32, &scratch).unwrap();
}

#[test]
fn a_damaged_block_is_told_from_a_lost_connection() {
    let server = Reference::damaged(1 << 20, 8192).unwrap();
    let mut nbd = Nbd::connect(server.address(), "", LIMIT).unwrap();
    assert_eq!(nbd.size(), 1 << 20);
    let mut block = [1; 4096];
    assert!(matches!(
        nbd.read(8192, &mut block),
        Err(NbdError::Refused(EIO))
    ));
    nbd.read(4096, &mut block).unwrap();
    assert_eq!(block, [0; 4096]);
    drop(server);
    assert!(matches!(nbd.read(0, &mut block), Err(NbdError::Lost(_))));
}

#[test]
fn the_workload_holds_on_a_reference_and_notices_loss() {
    let server = Reference::start(64 << 20).unwrap();
    let mut workload = Workload::new(1, 4, 32 << 20);
    let run = |workload: &mut Workload| {
        workload.run(server.address(), "", |flushes| {
            let deadline = Instant::now() + LIMIT;
            while flushes.load(Ordering::Relaxed) < 200 {
                assert!(Instant::now() < deadline, "too few flushes");
                std::thread::sleep(Duration::from_millis(5));
            }
            Ok(())
        })
    };
    run(&mut workload).unwrap();
    workload.verify(server.address(), "").unwrap();
    run(&mut workload).unwrap();
    assert!(workload.flushes() >= 400);
    // A lost write: zeros where some version must be.
    clients::qemu_io(&server.uri(), &["write -z 1M 256k"]).unwrap();
    let error = workload
        .verify(server.address(), "")
        .unwrap_err()
        .to_string();
    assert!(error.contains("holds version 0; durable is"), "{error}");
}

#[test]
fn a_rider_outlives_its_reference() {
    let scratch = Scratch::new("rider");
    let path = qemu::sparse_file(scratch.file("disk.raw"), 16 << 20).unwrap();
    let address = qemu::probe::free_port().unwrap();
    let mut server = Reference::of_file(&path, address).unwrap();
    let mut rider = Rider::connect(address, "").unwrap();
    for round in 1..4 {
        rider.run(&format!("write -P {round} {round}M 1M")).unwrap();
        rider.run("flush").unwrap();
        drop(server);
        server = Reference::of_file(&path, address).unwrap();
        rider.run(&format!("read -P {round} {round}M 1M")).unwrap();
    }
    rider.end().unwrap();
    let mut rider = Rider::connect(address, "").unwrap();
    assert!(
        rider.run("read -P 9 1M 1M").is_err(),
        "a wrong pattern must be noticed"
    );
}

#[test]
fn a_linux_client_keeps_its_files_on_a_reference() {
    let server = Reference::start(512 << 20).unwrap();
    ext4::survives_a_kill(server.address().port(), "", "reference").unwrap();
}

/// Boot sector: writes `hello` and a newline to the serial port, then 3 to the debug-exit port.
const BOOT_SECTOR: &[u8] = b"\xba\xf8\x03\xbe\x17\x7c\x31\xc0\x8e\xd8\xb9\x06\x00\xac\xee\xe2\xfc\xba\xf4\x00\xb0\x03\xeehello\n";

#[test]
fn a_machine_without_our_image_starts_talks_and_ends() {
    let scratch = Scratch::new("machine");
    let mut disk = vec![0; 1 << 20];
    disk[..BOOT_SECTOR.len()].copy_from_slice(BOOT_SECTOR);
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    let path = scratch.file("boot.raw");
    fs::write(&path, disk).unwrap();
    let medium = Drive::new(&path).on(Bus::Virtio);
    let mut machine = Machine::new(
        Boot::Disk {
            medium,
            firmware: Firmware::SeaBios,
        },
        scratch.path(),
    );
    machine.debug_exit = true;
    machine.networks = vec![Network::User];
    machine.drives = vec![
        Drive::new(qemu::sparse_file(scratch.file("a.raw"), 1 << 40).unwrap()).sectors(4096),
        Drive::new(qemu::sparse_file(scratch.file("b.raw"), 1 << 30).unwrap()).on(Bus::Virtio),
    ];
    let mut running = machine.start().unwrap();
    running.wait_for("hello", LIMIT).unwrap();
    let status = running.wait(LIMIT).unwrap();
    assert_eq!(status.code(), Some(7), "twice three and one");
}

#[test]
fn qmp_plugs_drives_and_pulls_the_plug() {
    let scratch = Scratch::new("qmp");
    let path = qemu::sparse_file(scratch.file("boot.raw"), 1 << 20).unwrap();
    let boot = Boot::Disk {
        medium: Drive::new(&path),
        firmware: Firmware::SeaBios,
    };
    let machine = Machine::new(boot, scratch.path());
    let mut running = machine.start().unwrap();
    let mut qmp = running.qmp().unwrap();
    assert_eq!(qmp.query_status().unwrap(), "running");
    let extra = qemu::sparse_file(scratch.file("extra.raw"), 1 << 30).unwrap();
    qmp.blockdev_add("extra", &extra).unwrap();
    qmp.plug_nvme("late", "extra", 1).unwrap();
    assert!(qmp.plug_nvme("late", "extra", 1).is_err());
    assert!(running.cpu_time().unwrap() > Duration::ZERO);
    qmp.quit().unwrap();
    assert!(running.wait(LIMIT).unwrap().success());
}

#[test]
fn a_refused_command_line_is_explained() {
    let scratch = Scratch::new("refused");
    let path = qemu::sparse_file(scratch.file("boot.raw"), 1 << 20).unwrap();
    let boot = Boot::Disk {
        medium: Drive::new(&path),
        firmware: Firmware::SeaBios,
    };
    let mut machine = Machine::new(boot, scratch.path());
    machine.extra = vec!["-device".into(), "no-such-device".into()];
    let error = machine.start().unwrap_err().to_string();
    assert!(error.contains("no-such-device"), "{error}");
}
