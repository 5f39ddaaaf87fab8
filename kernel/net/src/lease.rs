//! The IPv4 address that DHCP lends (RFC 2131): taken over, kept, and given up when the lease ends.

use alloc::boxed::Box;

use smoltcp::iface::{Interface, SocketHandle, SocketSet};
use smoltcp::socket::dhcpv4::{self, Event, RetryConfig};
use smoltcp::time::Duration;
use smoltcp::wire::{DhcpPacket, DhcpRepr, IpAddress, IpCidr, Ipv4Address, Ipv4Cidr};

use crate::config::is_host;

/// Room for one message of the server: it is told not to send more than fits an Ethernet frame.
const MESSAGE_BYTES: usize = 1500;

/// The DHCP client's socket and what it has lent us.
pub struct Lease {
    handle: SocketHandle,
    address: Option<Ipv4Cidr>,
}

impl Lease {
    /// Starts to ask.
    pub fn new(sockets: &mut SocketSet<'static>) -> Self {
        let mut socket = dhcpv4::Socket::new();
        let mut retry = RetryConfig::default();
        retry.discover_timeout = Duration::from_secs(2);
        retry.initial_request_timeout = Duration::from_secs(2);
        retry.min_renew_timeout = Duration::from_secs(10);
        socket.set_retry_config(retry);
        // The socket wants memory for as long as it lives, and that is as long as the stack does. Only with it does it
        // tell about renewals, and for how long they are.
        socket.set_receive_packet_buffer(Box::leak(Box::new([0; MESSAGE_BYTES])));
        Self {
            handle: sockets.add(socket),
            address: None,
        }
    }

    /// Applies what the server said since the last call. Returns the address that is gone, if one is.
    pub fn apply(
        &mut self,
        interface: &mut Interface,
        sockets: &mut SocketSet<'static>,
    ) -> Option<Ipv4Address> {
        let event = sockets.get_mut::<dhcpv4::Socket>(self.handle).poll()?;
        let old = self.address;
        match event {
            Event::Deconfigured => {
                if let Some(old) = old {
                    log::warn!("net: lease of {old} ended, asking for another");
                    self.replace(interface, None, None);
                }
            }
            Event::Configured(config) => {
                let seconds = config.packet.as_ref().and_then(lease_seconds).unwrap_or(0);
                if old == Some(config.address) {
                    let address = config.address;
                    log::info!("net: lease of {address} renewed for {seconds} s");
                } else {
                    let (address, server) = (config.address, config.server.address);
                    log::info!("net: address {address}, lease {seconds} s from {server}");
                }
                // smoltcp would take any address for a router's, and panic on its first use.
                let router = config.router.filter(|router| is_host((*router).into()));
                self.replace(interface, Some(config.address), router);
            }
        }
        old.filter(|old| self.address.map(|new| new.address()) != Some(old.address()))
            .map(|old| old.address())
    }

    fn replace(
        &mut self,
        interface: &mut Interface,
        address: Option<Ipv4Cidr>,
        router: Option<Ipv4Address>,
    ) {
        if self.address != address {
            let old = self.address.map(IpCidr::Ipv4);
            interface.update_ip_addrs(|all| {
                all.retain(|one| Some(*one) != old);
                if let Some(address) = address {
                    all.push(IpCidr::Ipv4(address))
                        .expect("the table has a place for this address");
                }
            });
            self.address = address;
        }
        let routes = interface.routes_mut();
        let known = routes
            .get_default_ipv4_route()
            .map(|route| route.via_router);
        if known == router.map(IpAddress::Ipv4) {
            return;
        }
        match router {
            Some(router) => {
                log::info!("net: gateway {router}");
                if routes.add_default_ipv4_route(router).is_err() {
                    log::warn!("net: no room for the route to {router}");
                }
            }
            None => {
                routes.remove_default_ipv4_route();
            }
        }
    }
}

fn lease_seconds(packet: &DhcpPacket<&[u8]>) -> Option<u32> {
    DhcpRepr::parse(packet).ok()?.lease_duration
}
