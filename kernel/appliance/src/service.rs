//! From a machine whose loop runs to one that serves.

use alloc::rc::Rc;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::cell::RefCell;
use core::net::IpAddr;
use core::time::Duration;

use access::{Audit, Entry, Secret, Tokens};
use appliance::memory::{
    API_BUFFER_BYTES, API_CONNECTIONS_MAX, API_CONNECTIONS_SPARE, NBD_CONNECTIONS_MAX,
    PEER_STRANGERS_MAX, Shares,
};
use config::Config;
use exec::Exec;
use migration::Moves;
use net::{ListenOptions, NetConfig};
use origin::{NbdOrigins, Patience};
use peer::{Me, Peers};
use serve::{api, nbd};
use store::{Environment, Store};
use upkeep::Upkeep;
use virtio::{NetLink, PciDevice};
use volume::Volumes;
use world::Entropy;

use crate::VERSION;
use crate::drive::Drive;
use crate::machine::Broken;
use crate::node::Appliance;
use crate::pool::{self, Pool, Terms};
use crate::power::Power;

/// The stack of this machine.
pub type Stack = net::Stack<NetLink<PciDevice>>;

const NBD_PORT: u16 = 10809;
const API_PORT: u16 = 8080;
/// How long being ready waits for an address; whoever gives it later finds the servers waiting.
const ADDRESS_PATIENCE: Duration = Duration::from_secs(5);
/// How often it is looked whether an address came.
const ADDRESS_INTERVAL: Duration = Duration::from_millis(5);

/// Everything that serving is made of.
pub struct Parts {
    pub config: Config,
    pub shares: Shares,
    pub exec: Exec,
    pub entropy: Rc<dyn Entropy>,
    pub stack: Option<Stack>,
    pub drives: Vec<Drive>,
    pub broken: Vec<Broken>,
    pub power: Rc<Power>,
    /// The report of the crash that ended the run before this one.
    pub crash: Option<Rc<str>>,
}

/// Brings the pool up, opens the ports, and says so.
pub async fn start(parts: Parts) {
    let Pool { store, verdicts } = bring_up_pool(&parts).await;
    if let Some(store) = &store {
        parts.power.will_close(store.clone());
    }
    let Some(stack) = parts.stack.clone() else {
        log::error!("no network device works: nothing is served");
        return;
    };
    let node = Appliance {
        config: Rc::new(parts.config.clone()),
        nbd_port: parts.config.nbd_public_port.unwrap_or(NBD_PORT),
        drives: Rc::new(RefCell::new(
            parts.drives.iter().cloned().zip(verdicts).collect(),
        )),
        broken: parts.broken.clone(),
        store: store.clone(),
        stack: stack.clone(),
        crash: parts.crash.clone(),
        power: parts.power.clone(),
    };
    let tokens = tokens(&parts, store.as_ref()).await;
    let peers = open_peers(&parts, store.as_ref()).await;
    let audit = Audit::open(parts.exec.clone(), store.clone()).await;
    parts.power.will_save(audit.clone());
    if let Some(report) = &parts.crash {
        // The page in memory tells of it once; this stays.
        audit.note(Entry {
            who: "(firmware)".into(),
            from: "-".into(),
            what: "crash".into(),
            status: 500,
            error: report.lines().map(str::trim).collect::<Vec<_>>().join(" "),
            ..Entry::default()
        });
    }
    let volumes = store.map(Volumes::new);
    let moves = match &volumes {
        Some(volumes) => Some(load_volumes(&parts, &stack, volumes, peers.clone()).await),
        None => None,
    };
    let upkeep = match &volumes {
        Some(volumes) => Some(Upkeep::open(&parts.exec, volumes).await),
        None => None,
    };
    if let (Some(moves), Some(upkeep)) = (&moves, &upkeep) {
        moves.begin(&upkeep.jobs);
    }
    serve_nbd(&parts, &stack, volumes.clone());
    if let (Some(peers), Some(moves)) = (&peers, &moves) {
        serve_peers(&parts, &stack, peers, moves);
    }
    let backend = api::Backend {
        node: Rc::new(node),
        volumes,
        upkeep,
        peers: peers.map(|peers| api::Peering::new(peers, stack.clone())),
        moves,
        tokens,
        audit,
    };
    serve_api(&parts, &stack, backend);
    wait_for_address(&parts.exec, &stack).await;
    let addresses: Vec<String> = stack.addresses().iter().map(ToString::to_string).collect();
    log::info!(
        "NBD at port {NBD_PORT}, HTTP at port {API_PORT}, peers at port {} of {}",
        peer::PORT,
        addresses.join(", ")
    );
    let millis = hal::clock::now_nanos() / 1_000_000;
    hal::log::announce(format_args!("ferrite {VERSION} ready in {millis} ms"));
}

/// Says of each volume where its blocks are, who may use it, and whose it is, before anybody can ask for it. Without peers nothing moves, but
/// what was given away stays so.
async fn load_volumes(
    parts: &Parts,
    stack: &Stack,
    volumes: &Volumes<Drive>,
    peers: Option<Peers<Drive>>,
) -> Moves<Drive> {
    let (exec, entropy) = (parts.exec.clone(), parts.entropy.clone());
    let pages = world::Pool::new(parts.shares.lend_pages);
    let moves = Moves::new(
        exec.clone(),
        entropy,
        volumes.clone(),
        peers,
        stack.clone(),
        pages,
    );
    let wait = Duration::from_secs(parts.config.origin_patience_secs);
    moves.set_patience(wait);
    let patience = Patience {
        request: wait,
        ..Patience::default()
    };
    let exports = NbdOrigins::new(exec, stack.clone()).with_patience(patience);
    let origins = moves.origins(Rc::new(exports));
    volumes.reach_origins_by(origins, parts.shares.fetch_pages);
    for base in volumes.load_adoptions().await {
        log::error!(
            "where the rest of adopted volumes is cannot be read (base {})",
            base.0
        );
    }
    for name in volumes.load().await {
        log::error!(
            "who may use volume {name} cannot be read, so nobody may until that is set anew"
        );
    }
    moves.load().await;
    moves
}

async fn bring_up_pool(parts: &Parts) -> Pool {
    let terms = Terms {
        environment: Environment {
            exec: parts.exec.clone(),
            entropy: parts.entropy.clone(),
            pool: world::Pool::new(parts.shares.store_pages),
        },
        config: store::Config::for_memory(parts.shares.store_bytes),
        demo: parts.config.demo,
        are_all_there: parts.broken.is_empty(),
    };
    pool::bring_up(&parts.drives, terms).await
}

fn serve_nbd(parts: &Parts, stack: &Stack, volumes: Option<Volumes<Drive>>) {
    let bytes = parts.shares.nbd_buffer_bytes;
    let listener = stack.listen(
        NBD_PORT,
        ListenOptions {
            receive_bytes: bytes,
            transmit_bytes: bytes,
            connections_max: NBD_CONNECTIONS_MAX,
            // Many clients may come at once after a restart.
            half_open_max: NBD_CONNECTIONS_MAX,
        },
    );
    let limits = nbd::Limits {
        connections_max: NBD_CONNECTIONS_MAX,
        ..nbd::Limits::default()
    };
    let pages = world::Pool::new(parts.shares.nbd_pages);
    let server = nbd::Server::new(parts.exec.clone(), volumes, pages, limits);
    parts.exec.spawn(server.serve(listener));
}

/// The appliances that this one was paired with. Without its own key it is nobody's peer, and there are none.
async fn open_peers(parts: &Parts, store: Option<&Store<Drive>>) -> Option<Peers<Drive>> {
    let store = store?.clone();
    let me = Me {
        name: parts.config.node_name.clone(),
        port: parts.config.peer_public_port.unwrap_or(peer::PORT),
    };
    let (exec, entropy) = (parts.exec.clone(), parts.entropy.clone());
    match Peers::open(exec, store, entropy, me).await {
        Ok(peers) => Some(peers),
        Err(error) => {
            log::error!("this appliance's key cannot be read, so it has no peers: {error}");
            None
        }
    }
}

/// Pairs, and listens to what peers want.
fn serve_peers(parts: &Parts, stack: &Stack, peers: &Peers<Drive>, moves: &Moves<Drive>) {
    let bytes = parts.shares.peer_buffer_bytes;
    let listener = stack.listen(
        peer::PORT,
        ListenOptions {
            receive_bytes: bytes,
            transmit_bytes: bytes,
            connections_max: parts.shares.peer_connections(),
            half_open_max: PEER_STRANGERS_MAX,
        },
    );
    let moves = moves.clone();
    let handler = move |channel| moves.clone().serve(channel);
    let channels = parts.shares.peer_channels;
    let serving = peers.clone().serve_at_most(channels, listener, handler);
    parts.exec.spawn(serving);
}

fn serve_api(parts: &Parts, stack: &Stack, backend: api::Backend<Drive>) {
    let listener = stack.listen(
        API_PORT,
        ListenOptions {
            receive_bytes: API_BUFFER_BYTES,
            transmit_bytes: API_BUFFER_BYTES,
            // More than are served: who comes displaces who does nothing.
            connections_max: API_CONNECTIONS_MAX + API_CONNECTIONS_SPARE,
            half_open_max: API_CONNECTIONS_MAX,
        },
    );
    let limits = api::Limits {
        connections_max: API_CONNECTIONS_MAX,
        ..api::Limits::default()
    };
    let server = api::Server::new(parts.exec.clone(), backend, limits);
    parts.exec.spawn(server.serve(listener));
}

/// Who may do what. A first token goes to the console, once, and nowhere else.
async fn tokens(parts: &Parts, store: Option<&Store<Drive>>) -> Tokens<Drive> {
    let configured = parts.config.token.as_deref();
    let (tokens, first) = match (store, configured) {
        (Some(store), _) => {
            let (exec, entropy) = (parts.exec.clone(), parts.entropy.clone());
            Tokens::open(exec, store.clone(), entropy, configured).await
        }
        (None, Some(secret)) => (Tokens::only(parts.exec.clone(), secret), None),
        (None, None) => {
            let secret = Secret::draw(&*parts.entropy);
            let tokens = Tokens::only(parts.exec.clone(), secret.text());
            (tokens, Some(secret))
        }
    };
    if let Some(secret) = first {
        log::warn!(
            "no token is configured: the first one is on the console only, and is not shown again"
        );
        hal::log::show(format_args!(
            "first token of this appliance: {}",
            secret.text()
        ));
    }
    tokens
}

/// Waits until more than the neighbours can reach the stack, for a while.
async fn wait_for_address(exec: &Exec, stack: &Stack) {
    let give_up = exec.now() + ADDRESS_PATIENCE;
    loop {
        let is_reachable = stack.addresses().iter().any(|cidr| match cidr.address() {
            IpAddr::V4(_) => true,
            IpAddr::V6(v6) => !v6.is_unicast_link_local(),
        });
        if is_reachable {
            return;
        }
        if exec.now() >= give_up {
            log::warn!("no address yet");
            return;
        }
        exec.sleep(ADDRESS_INTERVAL).await;
    }
}

/// What the stack is told, or the key whose value no host can have.
pub fn net_config(config: &Config) -> Result<NetConfig, &'static str> {
    if config.addresses.is_empty() {
        return Ok(NetConfig {
            gateways: config.gateways.clone(),
            ..NetConfig::default()
        });
    }
    let addresses = config.addresses.iter();
    let addresses: Option<Vec<net::Cidr>> = addresses
        .map(|cidr| net::Cidr::new(cidr.address, cidr.prefix_len))
        .collect();
    let addresses = addresses.ok_or("net.address is not one that a host can have")?;
    Ok(NetConfig::fixed(&addresses, &config.gateways))
}
