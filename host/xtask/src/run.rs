//! `run` and `stop`: one appliance on this host.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use qemu::instance::{Endpoint, Instance, shown};
use qemu::{Accel, Appliance, ApplianceOptions, Network, probe};

use crate::drives;
use crate::setup::{self, Need};
use crate::{image, steps};

/// How long the appliance may take until it answers: a large pool after a power cut, on a busy machine, translated.
const READY_LIMIT: Duration = Duration::from_secs(90);
/// How long an orderly shutdown may take before the plug is pulled.
const POWER_DOWN_LIMIT: Duration = Duration::from_secs(20);
/// Pause between two looks at the machine.
const POLL: Duration = Duration::from_millis(50);

/// Options of `run`.
#[derive(Args)]
pub struct RunArgs {
    #[command(flatten)]
    place: Place,
    /// A drive: SIZE (a file kept in the state folder), PATH, or a URI that QEMU opens; `virtio:` before it for
    /// virtio-blk instead of NVMe. Repeatable. Default: the drive files in the state folder as NVMe, at first one of 8GiB
    #[arg(long, value_name = "SIZE|PATH|URI")]
    drive: Vec<String>,
    /// Sector size of the drives: 512 or 4096
    #[arg(long, value_name = "BYTES", default_value_t = 512)]
    sector: u32,
    /// Guest memory in MiB
    #[arg(long, value_name = "MIB", default_value_t = 128)]
    memory: u32,
    /// Virtual CPUs
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=255))]
    cpus: u32,
    /// Where the host reaches NBD
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:10809")]
    nbd: SocketAddr,
    /// Where the host reaches the HTTP API
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:8080")]
    api: SocketAddr,
    /// Where other appliances reach it, through this host
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:10810")]
    peer: SocketAddr,
    /// A network interface: user, tap=INTERFACE or socket=PATH. Repeatable. Without `user` among them, --nbd, --api and --peer
    /// are the guest's own addresses (see net.address in --config)
    #[arg(long, value_name = "NET", default_value = "user")]
    net: Vec<Network>,
    /// auto (KVM where it works, else TCG), kvm or tcg
    #[arg(long, default_value = "auto")]
    accel: Accel,
    /// A QMP socket for scripts
    #[arg(long, value_name = "PATH")]
    qmp: Option<PathBuf>,
    /// Configuration for the appliance (TOML), e.g. net.address, log.level
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Return once it is ready; `cargo xtask stop` ends it
    #[arg(long)]
    detach: bool,
}

/// Options of `stop`.
#[derive(Args)]
pub struct StopArgs {
    /// Which appliance; the one that was started last when left out, as `cargo xtask ferrite` takes it
    #[arg(long)]
    name: Option<String>,
    /// The place of its state, if that was given
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
}

impl StopArgs {
    fn instance(&self) -> Result<Instance> {
        match (&self.name, &self.state) {
            (None, None) => Instance::last(),
            (name, state) => Instance::find(name.as_deref().unwrap_or("default"), state.as_deref()),
        }
    }
}

#[derive(Args)]
struct Place {
    /// Which appliance; its state lives in target/ferrite/NAME
    #[arg(long, default_value = "default")]
    name: String,
    /// Another place for its state
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
}

impl Place {
    fn instance(&self) -> Result<Instance> {
        Instance::find(&self.name, self.state.as_deref())
    }
}

/// Runs `run`.
///
/// # Errors
/// When the image does not build, the machine does not start, or the appliance does not become ready or ends badly.
pub fn command(args: &RunArgs) -> Result<()> {
    let instance = args.place.instance()?;
    if let Some(pid) = instance.running_pid() {
        bail!(
            "an appliance runs on {} already (process {pid}); end it with `cargo xtask stop {}` or give this one \
             another --name, --nbd, --api and --peer",
            shown(instance.folder()),
            match &args.place.state {
                Some(folder) => format!("--state {}", folder.display()),
                None => format!("--name {}", args.place.name),
            }
        );
    }
    if args.net.contains(&Network::User) {
        let ports = [
            ("--nbd", args.nbd),
            ("--api", args.api),
            ("--peer", args.peer),
        ];
        if let Some((one, other, port)) = clash(&ports) {
            bail!("{one} and {other} are both at port {port}; give one of them another one");
        }
        for (option, address) in ports {
            probe::can_listen(address).with_context(|| {
                format!("{address} is in use; choose another with {option} ADDR:PORT")
            })?;
        }
    }
    setup::ensure(Need::Machine)?;
    instance.create()?;
    // Before the build, which takes long: what is wrong with the arguments shows at once.
    let drives = drives::prepare(&args.drive, args.sector, &instance)?;
    let mut options = ApplianceOptions::new(&image::dist().join("ferrite.elf"), instance.folder())?;
    options.nbd = args.nbd;
    options.api = args.api;
    options.peer = args.peer;
    configure(&mut options, args, &instance)?;
    image::build()?;

    let machine = &mut options.machine;
    machine.drives = drives;
    machine.networks.clone_from(&args.net);
    machine.accel = args.accel;
    machine.memory_mib = args.memory;
    machine.cpus = args.cpus;
    machine.extra_qmp.clone_from(&args.qmp);
    machine.ends_with_starter = !args.detach;
    serve(&options, &instance, args.detach)
}

/// Two options that want the same port of the host, if any do.
fn clash(ports: &[(&'static str, SocketAddr)]) -> Option<(&'static str, &'static str, u16)> {
    // Who listens at all addresses is in the way of who listens at one of them.
    let meets = |a: SocketAddr, b: SocketAddr| {
        let any = a.ip().is_unspecified() || b.ip().is_unspecified();
        a.port() == b.port() && a.port() != 0 && (a.ip() == b.ip() || any)
    };
    ports.iter().enumerate().find_map(|(index, &(one, a))| {
        let mut others = ports[index + 1..].iter();
        let (other, _) = others.find(|&&(_, b)| meets(a, b))?;
        Some((one, *other, a.port()))
    })
}

/// Fills in configuration and token; what the user's file says wins.
fn configure(options: &mut ApplianceOptions, args: &RunArgs, instance: &Instance) -> Result<()> {
    let mut config = toml::Table::new();
    if let Some(path) = &args.config {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read the configuration {}", path.display()))?;
        config = text
            .parse()
            .with_context(|| format!("{} is not a configuration", path.display()))?;
    }
    let given = |section: &str, key: &str| {
        config
            .get(section)
            .and_then(|table| table.get(key))
            .cloned()
    };
    options.token = match given("api", "token") {
        Some(token) => token
            .as_str()
            .context("api.token must be a string")?
            .to_owned(),
        None => instance.token()?,
    };
    let (demo, name) = (given("pool", "demo"), given("node", "name"));
    let ports = [("nbd", args.nbd), ("peer", args.peer)];
    let ports = ports.map(|(section, at)| (section, at, given(section, "public_port")));
    options.config = config;
    options.set("pool.demo", demo.unwrap_or(true.into()));
    let default_name = if args.place.name == "default" {
        "ferrite"
    } else {
        &args.place.name
    };
    options.set("node.name", name.unwrap_or(default_name.into()));
    // Behind user-mode networking it cannot know by itself; on a network of its own its port is the one.
    for (section, at, given) in ports {
        if args.net.contains(&Network::User) && given.is_none() {
            options.set(&format!("{section}.public_port"), i64::from(at.port()));
        }
    }
    Ok(())
}

fn serve(options: &ApplianceOptions, instance: &Instance, detach: bool) -> Result<()> {
    let interrupts = Arc::new(AtomicUsize::new(0));
    let seen = interrupts.clone();
    ctrlc::set_handler(move || {
        seen.fetch_add(1, Ordering::Relaxed);
    })?;
    eprintln!("==> booting ({:?})", options.machine.accel.resolve());
    let mut appliance = options.start()?;
    instance.set_pid(appliance.running.pid())?;
    let console = (!detach).then(|| Console::follow(appliance.running.serial_path().into()));
    let ready = wait_ready(&mut appliance, &interrupts);
    let result = match ready {
        Ok(true) => {
            let (nbd, api) = (format!("nbd://{}", options.nbd), appliance.api_url());
            instance.announce(&Endpoint {
                api: api.clone(),
                nbd: nbd.clone(),
            })?;
            println!(
                "ready nbd={nbd} api={api} token={} state={}",
                options.token,
                shown(instance.folder())
            );
            std::io::stdout().flush()?;
            if detach {
                let _ = appliance.running.detach();
                return Ok(());
            }
            until_the_end(&mut appliance, &interrupts)
        }
        Ok(false) => end(&mut appliance, &interrupts),
        Err(error) => Err(error),
    };
    if let Some(console) = console {
        console.end();
    }
    instance.clear_pid();
    result
}

/// Waits until it answers (true) or the user gives up (false).
fn wait_ready(appliance: &mut Appliance, interrupts: &AtomicUsize) -> Result<bool> {
    let start = Instant::now();
    loop {
        if interrupts.load(Ordering::Relaxed) > 0 {
            return Ok(false);
        }
        // In slices, so that Ctrl-C is heard.
        match appliance.wait_ready(Duration::from_millis(500)) {
            Ok(_) => return Ok(true),
            Err(error) => {
                let ended = appliance.running.try_wait()?.is_some();
                if ended || start.elapsed() > READY_LIMIT {
                    return Err(error);
                }
            }
        }
    }
}

/// Serves until the guest turns itself off or the user wants it to.
fn until_the_end(appliance: &mut Appliance, interrupts: &AtomicUsize) -> Result<()> {
    loop {
        if let Some(status) = appliance.running.try_wait()? {
            if !status.success() {
                bail!(
                    "the machine ended with {status}: {}",
                    appliance.running.messages()
                );
            }
            eprintln!("<== the appliance has turned itself off");
            return Ok(());
        }
        if interrupts.load(Ordering::Relaxed) > 0 {
            return end(appliance, interrupts);
        }
        thread::sleep(POLL);
    }
}

/// Presses the power button; a second Ctrl-C, or too long a wait, pulls the plug.
fn end(appliance: &mut Appliance, interrupts: &AtomicUsize) -> Result<()> {
    eprintln!("==> shutting down (Ctrl-C again pulls the plug)");
    let start = Instant::now();
    let heard = interrupts.load(Ordering::Relaxed);
    appliance.running.qmp()?.system_powerdown()?;
    loop {
        if appliance.running.try_wait()?.is_some() {
            eprintln!("<== shut down in {}", steps::seconds(start.elapsed()));
            return Ok(());
        }
        let impatient = interrupts.load(Ordering::Relaxed) > heard;
        if impatient || start.elapsed() > POWER_DOWN_LIMIT {
            appliance.running.kill()?;
            if impatient {
                eprintln!("<== plug pulled");
                return Ok(());
            }
            bail!(
                "the appliance did not shut down within {POWER_DOWN_LIMIT:?}; its plug was pulled"
            );
        }
        thread::sleep(POLL);
    }
}

/// Runs `stop`.
///
/// # Errors
/// When nothing runs there, or the appliance had to be killed.
pub fn stop(args: &StopArgs) -> Result<()> {
    let instance = args.instance()?;
    let which = shown(instance.folder());
    if instance.running_pid().is_none() {
        bail!("no appliance runs on {which}{}", others()?);
    }
    if !instance.stop(POWER_DOWN_LIMIT)? {
        bail!(
            "the appliance of {which} did not shut down within {POWER_DOWN_LIMIT:?}; its plug was pulled"
        );
    }
    println!("stopped the appliance of {which}");
    Ok(())
}

/// Says which appliances of this checkout run.
fn others() -> Result<String> {
    let names: Vec<String> = Instance::running()?
        .iter()
        .filter_map(|instance| instance.folder().file_name())
        .map(|name| format!("`--name {}`", name.display()))
        .collect();
    Ok(match names.as_slice() {
        [] => String::new(),
        [only] => format!("; one does with {only}"),
        many => format!("; these do: {}", many.join(", ")),
    })
}

/// Shows the console as it grows.
struct Console {
    stop: mpsc::Sender<()>,
    thread: thread::JoinHandle<()>,
}

impl Console {
    fn follow(path: PathBuf) -> Self {
        let (stop, stopped) = mpsc::channel();
        let thread = thread::spawn(move || {
            let mut shown = 0;
            loop {
                let last_look = stopped.recv_timeout(POLL) != Err(mpsc::RecvTimeoutError::Timeout);
                let log = std::fs::read(&path).unwrap_or_default();
                let new = log.get(shown..).unwrap_or_default();
                let complete = new
                    .iter()
                    .rposition(|&byte| byte == b'\n')
                    .map_or(0, |at| at + 1);
                for line in String::from_utf8_lossy(&new[..complete]).lines() {
                    println!("{line}");
                }
                shown += complete;
                if last_look {
                    break;
                }
            }
        });
        Self { stop, thread }
    }

    fn end(self) {
        let _ = self.stop.send(());
        let _ = self.thread.join();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_that_are_the_same_are_noticed() {
        let clash = |addresses: [&str; 3]| {
            let parsed = addresses.map(|address| address.parse().unwrap());
            let [nbd, api, peer] = parsed;
            clash(&[("--nbd", nbd), ("--api", api), ("--peer", peer)])
        };
        let same = clash(["127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:1"]);
        assert_eq!(same, Some(("--nbd", "--peer", 1)));
        let all = clash(["127.0.0.1:1", "0.0.0.0:2", "127.0.0.1:2"]);
        assert_eq!(all, Some(("--api", "--peer", 2)));
        assert_eq!(clash(["127.0.0.1:1", "127.0.0.2:1", "[::1]:1"]), None);
    }
}
