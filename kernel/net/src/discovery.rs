//! The end of looking for IPv6 routers.
//!
//! smoltcp 0.14 asks for routers three times, 4 s apart, and then still names the time of a fourth request as its next
//! deadline, for ever: a loop that waits for deadlines would never sleep again. An advertisement of a router with
//! lifetime zero (RFC 4861 section 4.2: "not a default router") changes nothing but ends the asking, so the stack gives
//! itself one. Real advertisements are still heard later.

use alloc::vec;
use alloc::vec::Vec;
use core::time::Duration;

use smoltcp::phy::{self, ChecksumCapabilities, DeviceCapabilities};
use smoltcp::time::Instant;
use smoltcp::wire::{
    EthernetAddress, EthernetFrame, EthernetProtocol, Icmpv6Packet, Icmpv6Repr, IpProtocol,
    Ipv6Address, Ipv6Packet, Ipv6Repr, NdiscRepr, NdiscRouterFlags,
};

/// How long routers are looked for: three requests, 4 s apart.
pub const LIMIT: Duration = Duration::from_secs(12);

/// All nodes of the link (RFC 4291 section 2.7.1).
const ALL_NODES: Ipv6Address = Ipv6Address::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// Nobody's link-local address.
const NOBODY: Ipv6Address = Ipv6Address::new(0xfe80, 0, 0, 0, 0, 0, 0, 0);

/// A device that receives one frame: there is no router.
pub struct FinalAdvertisement {
    frame: Option<Vec<u8>>,
}

impl FinalAdvertisement {
    /// For the interface whose hardware address is `mac`.
    pub fn new(mac: [u8; 6]) -> Self {
        Self {
            frame: Some(final_advertisement(mac)),
        }
    }
}

impl phy::Device for FinalAdvertisement {
    type RxToken<'a> = Advertisement;
    type TxToken<'a> = NoReply;

    fn receive(&mut self, _now: Instant) -> Option<(Advertisement, NoReply)> {
        let frame = self.frame.take()?;
        Some((Advertisement { frame }, NoReply))
    }

    fn transmit(&mut self, _now: Instant) -> Option<NoReply> {
        None
    }

    fn capabilities(&self) -> DeviceCapabilities {
        DeviceCapabilities::default()
    }
}

/// The frame.
pub struct Advertisement {
    frame: Vec<u8>,
}

impl phy::RxToken for Advertisement {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        read(&self.frame)
    }
}

/// Advertisements are not answered; if one were, the answer would go nowhere.
pub struct NoReply;

impl phy::TxToken for NoReply {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, fill: F) -> R {
        fill(&mut vec![0; len])
    }
}

fn final_advertisement(mac: [u8; 6]) -> Vec<u8> {
    let advertisement = Icmpv6Repr::Ndisc(NdiscRepr::RouterAdvert {
        hop_limit: 0,
        flags: NdiscRouterFlags::empty(),
        router_lifetime: smoltcp::time::Duration::ZERO,
        reachable_time: smoltcp::time::Duration::ZERO,
        retrans_time: smoltcp::time::Duration::ZERO,
        lladdr: None,
        mtu: None,
        prefix_info: None,
    });
    let header = Ipv6Repr {
        src_addr: NOBODY,
        dst_addr: ALL_NODES,
        next_header: IpProtocol::Icmpv6,
        payload_len: advertisement.buffer_len(),
        hop_limit: 255,
    };
    let ip_bytes = header.buffer_len() + advertisement.buffer_len();
    let mut bytes = vec![0; EthernetFrame::<&[u8]>::buffer_len(ip_bytes)];
    let mut frame = EthernetFrame::new_unchecked(&mut bytes);
    frame.set_dst_addr(EthernetAddress(mac));
    frame.set_src_addr(EthernetAddress(mac));
    frame.set_ethertype(EthernetProtocol::Ipv6);
    let mut packet = Ipv6Packet::new_unchecked(frame.payload_mut());
    header.emit(&mut packet);
    advertisement.emit(
        &header.src_addr,
        &header.dst_addr,
        &mut Icmpv6Packet::new_unchecked(packet.payload_mut()),
        &ChecksumCapabilities::default(),
    );
    bytes
}
