//! The server without its sockets, for [`crate::exercise`].

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use futures_util::FutureExt as _;
use hickory_server::net::xfer::Protocol;

use super::Handler;
use super::message::{Received, receive};
use super::reply::Way;
use super::session::{Outgoing, Session};

/// Keeps what is answered.
#[derive(Default)]
pub(super) struct Answers(Mutex<Vec<Vec<u8>>>);

impl Way for Answers {
    async fn send(&self, message: Vec<u8>) -> bool {
        let mut answers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        answers.push(message);
        true
    }
}

impl Answers {
    pub(super) fn all(self) -> Vec<Vec<u8>> {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The answers to a message, the quick one included.
pub(crate) fn message(
    handler: &Handler,
    octets: &[u8],
    from: SocketAddr,
    protocol: Protocol,
    now: u64,
) -> Vec<Vec<u8>> {
    let answers = Answers::default();
    match receive(octets, from, protocol) {
        Received::Request(request) => {
            // Nobody takes updates, so nothing waits.
            let answered = handler.respond(&request, &answers, now).now_or_never();
            assert!(answered.is_some());
        }
        Received::Malformed(_, answer) => return vec![answer],
        Received::Nothing => {}
    }
    let mut quick = Vec::new();
    let mut answers = answers.all();
    if protocol == Protocol::Udp && handler.quickly(octets, from.ip(), &mut quick).is_some() {
        answers.push(quick);
    }
    answers
}

/// What a session says to these messages, until it is aborted.
pub(crate) fn session<'m>(
    handler: &Arc<Handler>,
    messages: impl Iterator<Item = &'m [u8]>,
) -> Vec<Vec<u8>> {
    let from = SocketAddr::from(([198, 51, 100, 9], 5353));
    let mut session = Session::new(handler.clone(), from);
    let mut said = Vec::new();
    for message in messages {
        let Ok(outgoing) = session.handle(message) else {
            break;
        };
        for outgoing in outgoing {
            match outgoing {
                Outgoing::Message(message) => said.push(message),
                Outgoing::State(subscription) => {
                    let mut from = Some(subscription.name.clone());
                    while let Some(name) = from {
                        let messages;
                        (messages, from) = handler.state(&subscription, &name);
                        said.extend(messages);
                    }
                }
            }
        }
    }
    said
}
