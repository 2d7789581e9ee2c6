//! Following links and addresses.
//!
//! The kernel's messages are applied to a picture of all links and addresses,
//! and what the picture changes by is reported. When messages were lost the
//! picture is taken anew and the same comparison reports what was missed: a
//! reader never has to ask for itself.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use futures_util::{FutureExt, Stream, StreamExt, TryStreamExt};
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::packet_core::{NetlinkMessage, NetlinkPayload};
use rtnetlink::{Handle, MulticastGroup};
use tokio::sync::mpsc;

use crate::io::rt::RtError;

/// Reports not yet read; beyond them the watcher waits.
const BACKLOG: usize = 256;

/// A change of links or addresses.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NetEvent {
    /// An interface exists now (also: has got this name).
    LinkAppeared {
        /// Its name.
        name: String,
        /// Its index.
        index: u32,
    },
    /// An interface is gone (also: has lost this name).
    LinkGone {
        /// Its name.
        name: String,
    },
    /// It is up and has a carrier.
    LinkUp {
        /// Its name.
        name: String,
    },
    /// It is down or has lost its carrier.
    LinkDown {
        /// Its name.
        name: String,
    },
    /// It has got an address that may be used.
    AddressAdded {
        /// Name of the interface.
        interface: String,
        /// The address.
        ip: IpAddr,
    },
    /// It has lost an address.
    AddressRemoved {
        /// Name of the interface.
        interface: String,
        /// The address.
        ip: IpAddr,
    },
}

/// Watches the network namespace of the calling thread. What exists already is
/// reported first, as if it had just appeared. Ends when the receiver is dropped;
/// the channel closes if the kernel's socket fails.
pub async fn watch() -> Result<mpsc::Receiver<NetEvent>, RtError> {
    let groups = [
        MulticastGroup::Link,
        MulticastGroup::Ipv4Ifaddr,
        MulticastGroup::Ipv6Ifaddr,
    ];
    let (connection, handle, mut messages) =
        rtnetlink::new_multicast_connection(&groups).map_err(RtError::Socket)?;
    tokio::spawn(connection);
    let (sender, receiver) = mpsc::channel(BACKLOG);
    let mut picture = Picture::default();
    let mut events = picture.become_(take(&handle).await?);
    tokio::spawn(async move {
        loop {
            for event in events {
                if sender.send(event).await.is_err() {
                    return;
                }
            }
            let message = tokio::select! {
                message = messages.next() => message,
                () = sender.closed() => return,
            };
            let Some((message, _)) = message else {
                return;
            };
            let seen = match next(&picture, message) {
                Some(seen) => Ok(seen),
                None => take_settled(&handle, &mut messages).await,
            };
            events = match seen {
                Ok(seen) => picture.become_(seen),
                Err(error) => {
                    tracing::warn!("links and addresses are no longer followed: {error}");
                    return;
                }
            };
        }
    });
    Ok(receiver)
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Picture {
    links: BTreeMap<u32, Link>,
    addresses: BTreeSet<(u32, IpAddr)>,
}

#[derive(Clone, Debug, PartialEq)]
struct Link {
    name: String,
    up: bool,
}

impl Picture {
    /// Turns into `seen` and says what is different: losses first, so that a
    /// renamed or moved thing is never in two places.
    fn become_(&mut self, seen: Picture) -> Vec<NetEvent> {
        let before = std::mem::replace(self, seen);
        let mut events = Vec::new();
        for (index, ip) in &before.addresses {
            let kept =
                self.addresses.contains(&(*index, *ip)) && self.name(*index) == before.name(*index);
            if let (false, Some(interface)) = (kept, before.name(*index)) {
                let interface = interface.to_owned();
                events.push(NetEvent::AddressRemoved { interface, ip: *ip });
            }
        }
        for (index, link) in &before.links {
            let name = link.name.clone();
            match self.links.get(index).filter(|now| now.name == name) {
                None => events.push(NetEvent::LinkGone { name }),
                Some(now) if link.up && !now.up => events.push(NetEvent::LinkDown { name }),
                Some(_) => {}
            }
        }
        for (index, link) in &self.links {
            let (name, index) = (link.name.clone(), *index);
            let known = before.links.get(&index).filter(|l| l.name == name);
            if known.is_none() {
                let name = name.clone();
                events.push(NetEvent::LinkAppeared { name, index });
            }
            if link.up && !known.is_some_and(|known| known.up) {
                events.push(NetEvent::LinkUp { name });
            }
        }
        for (index, ip) in &self.addresses {
            let known = before.addresses.contains(&(*index, *ip))
                && self.name(*index) == before.name(*index);
            if let (false, Some(interface)) = (known, self.name(*index)) {
                let interface = interface.to_owned();
                events.push(NetEvent::AddressAdded { interface, ip: *ip });
            }
        }
        events
    }

    fn name(&self, index: u32) -> Option<&str> {
        self.links.get(&index).map(|link| link.name.as_str())
    }

    fn link(&mut self, message: &LinkMessage) {
        let name = message.attributes.iter().find_map(|a| match a {
            LinkAttribute::IfName(name) => Some(name.clone()),
            _ => None,
        });
        if let Some(name) = name {
            let flags = message.header.flags;
            let up = flags.contains(LinkFlags::Up | LinkFlags::LowerUp);
            self.links.insert(message.header.index, Link { name, up });
        }
    }

    /// A tentative address may not be used yet; the kernel tells again when it
    /// may.
    fn address(&mut self, message: &AddressMessage) {
        let unusable = AddressHeaderFlags::Tentative | AddressHeaderFlags::Dadfailed;
        if let Some(key) = address_key(message) {
            if message.header.flags.intersects(unusable) {
                self.addresses.remove(&key);
            } else {
                self.addresses.insert(key);
            }
        }
    }
}

fn address_key(message: &AddressMessage) -> Option<(u32, IpAddr)> {
    let find = |local: bool| {
        message.attributes.iter().find_map(|a| match a {
            AddressAttribute::Local(ip) if local => Some(*ip),
            AddressAttribute::Address(ip) if !local => Some(*ip),
            _ => None,
        })
    };
    // On a point-to-point link IFA_ADDRESS is the other end's.
    let ip = find(true).or_else(|| find(false))?;
    Some((message.header.index, ip))
}

/// The picture after `message`; `None` if messages were lost.
fn next(picture: &Picture, message: NetlinkMessage<RouteNetlinkMessage>) -> Option<Picture> {
    let mut seen = picture.clone();
    match message.payload {
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => seen.link(&link),
        // A port leaving its bridge is told as a deletion in the bridge's family.
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelLink(link))
            if link.header.interface_family != AddressFamily::Bridge =>
        {
            let index = link.header.index;
            seen.links.remove(&index);
            seen.addresses.retain(|(on, _)| *on != index);
        }
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewAddress(address)) => {
            seen.address(&address);
        }
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::DelAddress(address)) => {
            if let Some(key) = address_key(&address) {
                seen.addresses.remove(&key);
            }
        }
        NetlinkPayload::Overrun(_) => return None,
        _ => {}
    }
    Some(seen)
}

/// A picture that no message older than it can spoil: among messages some of
/// which were lost, an old "added" may be left without its "removed".
async fn take_settled(
    handle: &Handle,
    messages: &mut (impl Stream + Unpin),
) -> Result<Picture, RtError> {
    loop {
        let seen = take(handle).await?;
        let mut late = 0;
        while messages.next().now_or_never().flatten().is_some() {
            late += 1;
        }
        if late == 0 {
            return Ok(seen);
        }
    }
}

async fn take(handle: &Handle) -> Result<Picture, RtError> {
    let failed = |error: rtnetlink::Error| RtError::Request {
        doing: "list links and addresses".to_owned(),
        cause: std::io::Error::other(error),
    };
    let mut picture = Picture::default();
    let mut links = handle.link().get().execute();
    while let Some(link) = links.try_next().await.map_err(failed)? {
        picture.link(&link);
    }
    let mut addresses = handle.address().get().execute();
    while let Some(address) = addresses.try_next().await.map_err(failed)? {
        picture.address(&address);
    }
    Ok(picture)
}
