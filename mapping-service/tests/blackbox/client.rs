//! The client, against mat-mapd and against servers that misbehave.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use hickory_proto::op::{Message, ResponseCode};
use mat_mapping::client::{Algorithm, AuthFault, MapClient, MapError, Swap, Timing, TsigKey};
use mat_proto::{Binding, Entry, Epoch, Home, Modes, Priority, Whose};

use crate::harness::*;

const HOME: &str = "192.0.2.10";

fn home() -> Home {
    HOME.parse().unwrap()
}

#[tokio::test]
async fn get_swap_and_list() {
    let dir = directory();
    let mapd = Mapd::start(dir.path());
    let client = mapd.client();
    let none = client.get(home()).await.unwrap();
    assert_eq!(none.binding, None);
    assert!(none.verified);
    assert_eq!(none.negative_ttl, Duration::from_secs(2));

    let one = binding(HOME, 1, "198.51.100.7");
    let two = binding(HOME, 2, "198.51.100.8");
    let swap = async |expect: Option<&Binding>, new: Option<&Binding>| {
        client.compare_and_swap(home(), expect, new).await.unwrap()
    };
    assert_eq!(swap(Some(&two), Some(&one)).await, Swap::Conflict);
    assert_eq!(swap(None, Some(&one)).await, Swap::Committed);
    assert_eq!(swap(None, Some(&two)).await, Swap::Conflict);
    assert_eq!(swap(Some(&one), Some(&two)).await, Swap::Committed);
    assert_eq!(swap(Some(&one), Some(&two)).await, Swap::Conflict);
    let found = client.get(home()).await.unwrap();
    assert_eq!(found.binding.as_ref(), Some(&two));
    assert!(found.verified);
    let v6 = binding("2001:db8:1::7", 1, "2001:db8:a::7");
    let done = client.compare_and_swap(v6.home(), None, Some(&v6)).await;
    assert_eq!(done.unwrap(), Swap::Committed);
    let whose = |binding: &Binding| (binding.home().into(), binding.clone());
    assert_eq!(client.list().await.unwrap(), [whose(&two), whose(&v6)]);
    assert_eq!(swap(Some(&two), None).await, Swap::Committed);
    assert_eq!(client.get(home()).await.unwrap().binding, None);
}

#[tokio::test]
async fn an_answer_without_a_key_is_not_verified() {
    let dir = directory();
    let mapd = Mapd::start(dir.path());
    let client = mapd.client_with(None);
    assert!(!client.get(home()).await.unwrap().verified);
    let one = binding(HOME, 1, "198.51.100.7");
    let error = client.compare_and_swap(home(), None, Some(&one)).await;
    assert!(error.unwrap_err().to_string().contains("needs a TSIG key"));
}

/// A set made by hand, without the default port, is still the expected binding.
#[tokio::test]
async fn a_binding_in_another_spelling_can_be_swapped() {
    let dir = directory();
    let mapd = Mapd::start(dir.path());
    let by_hand = mapd.nsupdate(
        "update add 10.2.0.192.h4.map.example. 0 SVCB 1 . ipv4hint=198.51.100.7 key65280=1 key65281=native key65282=30 key65300=later",
    );
    assert!(by_hand.ok, "{}", by_hand.text);
    let client = mapd.client();
    let one = binding(HOME, 1, "198.51.100.7");
    assert_eq!(client.get(home()).await.unwrap().binding, Some(one.clone()));
    let two = binding(HOME, 2, "198.51.100.8");
    let done = client
        .compare_and_swap(home(), Some(&one), Some(&two))
        .await;
    assert_eq!(done.unwrap(), Swap::Committed);
}

#[tokio::test]
async fn eight_locators_come_over_tcp_if_they_must() {
    let dir = directory();
    let mapd = Mapd::start(dir.path());
    let home: Home = "2001:db8:1::7".parse().unwrap();
    let entries = (1..=8u16).map(|i| Entry {
        priority: Priority::new(i).unwrap(),
        locator: format!("2001:db8:a::{i}").parse().unwrap(),
        port: 6283,
        modes: Modes {
            native: true,
            encap: true,
        },
    });
    let all = Binding::new(home, Epoch(u64::MAX / 2), 86_400, entries.collect()).unwrap();
    let client = mapd.client();
    let done = client
        .compare_and_swap(home, None, Some(&all))
        .await
        .unwrap();
    assert_eq!(done, Swap::Committed);
    let found = client.get(home).await.unwrap();
    assert_eq!((found.binding, found.verified), (Some(all), true));
}

#[tokio::test]
async fn refusals_say_why() {
    let dir = directory();
    let mapd = Mapd::start(dir.path());
    let one = binding(HOME, 1, "198.51.100.7");
    let attempt = async |key: TsigKey, new: &Binding| {
        let client = mapd.client_with(Some(key));
        let result = client.compare_and_swap(new.home(), None, Some(new)).await;
        result.unwrap_err()
    };
    let made = |name: &str, secret: &str| TsigKey::from_base64(name, Algorithm::HmacSha256, secret);
    let error = attempt(made("site-a", SECRET_B).unwrap(), &one).await;
    let bad_sig = MapError::NotAuth {
        server: mapd.address,
        reason: AuthFault::BadSig,
    };
    assert_eq!(error.to_string(), bad_sig.to_string());
    let error = attempt(made("site-z", SECRET_A).unwrap(), &one).await;
    assert!(
        matches!(
            error,
            MapError::NotAuth {
                reason: AuthFault::BadKey,
                ..
            }
        ),
        "{error}"
    );
    let elsewhere = binding(HOME, 1, "203.0.113.7");
    let error = attempt(key_a(), &elsewhere).await;
    assert!(
        matches!(
            error,
            MapError::Refused {
                code: ResponseCode::Refused,
                ..
            }
        ),
        "{error}"
    );
    let other_zone = MapClient::new(name("other.example."), vec![mapd.address], Some(key_a()));
    let error = other_zone.get(home()).await.unwrap_err();
    assert!(
        matches!(
            error,
            MapError::Refused {
                code: ResponseCode::Refused,
                ..
            }
        ),
        "{error}"
    );
    let client = mapd.client();
    let foreign = client
        .compare_and_swap("192.0.2.11".parse::<Home>().unwrap(), None, Some(&one))
        .await;
    assert!(matches!(foreign, Err(MapError::Request(_))));
}

#[tokio::test]
async fn silence_ends_at_the_deadline_and_a_dead_server_is_skipped() {
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let silent = silent.local_addr().map(|at| (silent, at)).unwrap();
    let timing = Timing {
        per_try: Duration::from_millis(50),
        deadline: Duration::from_millis(300),
    };
    let ask = async |servers: Vec<_>| {
        let started = Instant::now();
        let client = MapClient::new(name(ZONE), servers, Some(key_a())).with_timing(timing);
        (client.get(home()).await, started.elapsed())
    };
    let (result, took) = ask(vec![silent.1]).await;
    assert!(
        matches!(result, Err(MapError::Timeout { .. })),
        "{result:?}"
    );
    assert!(took >= timing.deadline && took < PATIENCE, "{took:?}");

    let dir = directory();
    let mapd = Mapd::start(dir.path());
    let unused = UdpSocket::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let (result, _) = ask(vec![unused, silent.1, mapd.address]).await;
    assert_eq!(result.unwrap().server, mapd.address);
    let (result, _) = ask(vec![unused]).await;
    assert!(
        matches!(result, Err(MapError::Network { .. })),
        "{result:?}"
    );
}

#[tokio::test]
async fn a_restart_of_the_service_is_waited_out() {
    let dir = directory();
    let mapd = Mapd::start(dir.path());
    let one = binding(HOME, 1, "198.51.100.7");
    let client = mapd.client().with_timing(Timing {
        per_try: Duration::from_millis(50),
        deadline: PATIENCE,
    });
    client
        .compare_and_swap(home(), None, Some(&one))
        .await
        .unwrap();
    mapd.kill();
    let waiting = tokio::spawn(async move { client.get(home()).await });
    let mapd = Mapd::start(dir.path());
    assert_eq!(waiting.await.unwrap().unwrap().binding, Some(one));
    mapd.stop();
}

/// Stands between client and server; `mangle` sees each answer (counted from 0)
/// and says what the client gets instead.
fn proxy(
    mapd: &Mapd,
    mangle: impl Fn(usize, Vec<u8>) -> Vec<Vec<u8>> + Send + 'static,
) -> std::net::SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let server = mapd.address;
    // Ends with the test's process; it waits for datagrams and owns nothing.
    std::thread::spawn(move || {
        let mut buffer = vec![0; 65536];
        for count in 0.. {
            let (len, client) = socket.recv_from(&mut buffer).unwrap();
            let Some(answer) = ask(server, &buffer[..len]) else {
                continue;
            };
            for datagram in mangle(count, answer) {
                socket.send_to(&datagram, client).unwrap();
            }
        }
    });
    address
}

#[tokio::test]
async fn a_lost_answer_is_no_lost_change() {
    let dir = directory();
    let mapd = Mapd::start(dir.path());
    let lossy = proxy(&mapd, |count, answer| match count {
        0 => vec![],
        _ => vec![answer],
    });
    let client = MapClient::new(name(ZONE), vec![lossy], Some(key_a()));
    let one = binding(HOME, 1, "198.51.100.7");
    let done = client.compare_and_swap(home(), None, Some(&one)).await;
    assert_eq!(done.unwrap(), Swap::Committed);
}

/// As BIND and Knot do: the copy of a committed update fails its prerequisite.
#[tokio::test]
async fn a_lost_answer_is_no_lost_change_without_replay_memory_either() {
    let dir = directory();
    let mapd = Mapd::start(dir.path());
    let taken = binding(HOME, 1, "198.51.100.9");
    let one = binding(HOME, 2, "198.51.100.7");
    let direct = mapd.client();
    direct
        .compare_and_swap(home(), None, Some(&taken))
        .await
        .unwrap();
    // A claim that conflicts, whose first answer is lost, and meanwhile the very
    // same binding has appeared.
    let racing = proxy(&mapd, |count, answer| match count {
        0 => vec![],
        _ => vec![answer],
    });
    let client = MapClient::new(name(ZONE), vec![racing], Some(key_a()));
    let other = binding(HOME, 3, "198.51.100.7");
    let result = client.compare_and_swap(home(), None, Some(&other)).await;
    assert_eq!(result.unwrap(), Swap::Conflict);
    direct
        .compare_and_swap(home(), Some(&taken), Some(&one))
        .await
        .unwrap();
    let racing = proxy(&mapd, |count, answer| match count {
        0 => vec![],
        _ => vec![answer],
    });
    let client = MapClient::new(name(ZONE), vec![racing], Some(key_a()));
    let result = client
        .compare_and_swap(home(), Some(&taken), Some(&one))
        .await;
    assert_eq!(result.unwrap(), Swap::Committed);
}

#[tokio::test]
async fn forged_answers_are_not_believed() {
    let dir = directory();
    let mapd = Mapd::start(dir.path());
    let one = binding(HOME, 1, "198.51.100.7");
    let direct = mapd.client();
    direct
        .compare_and_swap(home(), None, Some(&one))
        .await
        .unwrap();
    let forger = proxy(&mapd, |_, answer| {
        let message = Message::from_vec(&answer).unwrap();
        let unsigned = {
            let mut m = message.clone();
            m.take_signature();
            m.answers.clear();
            m.to_vec().unwrap()
        };
        let other_id = {
            let mut m = message.clone();
            m.metadata.id ^= 1;
            m.to_vec().unwrap()
        };
        let changed = {
            let mut bytes = answer.clone();
            bytes[answer.len() / 2] ^= 1;
            bytes
        };
        let refusal = {
            let mut m = message;
            m.take_signature();
            m.answers.clear();
            m.metadata.response_code = ResponseCode::Refused;
            m.to_vec().unwrap()
        };
        vec![vec![0; 5], unsigned, other_id, changed, refusal, answer]
    });
    let client = MapClient::new(name(ZONE), vec![forger], Some(key_a()));
    let found = client.get(home()).await.unwrap();
    assert_eq!((found.binding, found.verified), (Some(one), true));
    // Nothing but forgeries: an error, never "not bound".
    let only_forged = proxy(&mapd, |_, answer| {
        let mut message = Message::from_vec(&answer).unwrap();
        message.take_signature();
        message.answers.clear();
        message.metadata.response_code = ResponseCode::NXDomain;
        vec![message.to_vec().unwrap()]
    });
    let client = MapClient::new(name(ZONE), vec![only_forged], Some(key_a()));
    let error = client.get(home()).await.unwrap_err();
    assert!(
        matches!(
            error,
            MapError::NotAuth {
                reason: AuthFault::Unsigned,
                ..
            }
        ),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prefix_is_read_and_changed_as_a_home_is() {
    let dir = directory();
    let mapd = Mapd::start(dir.path());
    let client = mapd.client();
    let all: Whose = "192.0.2.0/24".parse().unwrap();
    let one: Whose = "192.0.2.10".parse().unwrap();
    let at = |epoch| binding("192.0.2.0", epoch, "198.51.100.0");
    let swap = async |whose: Whose, expect: Option<&Binding>, new: Option<&Binding>| {
        client.compare_and_swap(whose, expect, new).await.unwrap()
    };
    let (first, second) = (at(1), at(2));
    assert_eq!(swap(all, None, Some(&first)).await, Swap::Committed);
    assert_eq!(swap(all, None, Some(&second)).await, Swap::Conflict);
    assert_eq!(swap(all, Some(&second), None).await, Swap::Conflict);
    let found = client.get(all).await.unwrap();
    assert_eq!((found.binding.as_ref(), found.shared), (Some(&first), None));
    let found = client.get(one).await.unwrap();
    let theirs = binding("192.0.2.10", 1, "198.51.100.10");
    assert_eq!(
        (found.binding, found.shared),
        (Some(theirs.clone()), Some(all))
    );

    // What a home is read to share is what its own binding comes in place of.
    let own = binding("192.0.2.10", 3, "198.51.100.10");
    assert_eq!(
        swap(all, Some(&first), Some(&second)).await,
        Swap::Committed
    );
    assert_eq!(swap(one, Some(&theirs), Some(&own)).await, Swap::Conflict);
    let theirs = binding("192.0.2.10", 2, "198.51.100.10");
    assert_eq!(swap(one, Some(&theirs), Some(&own)).await, Swap::Committed);
    let listed = client.list().await.unwrap();
    assert_eq!(listed, [(all, second.clone()), (one, own.clone())]);
    assert_eq!(swap(all, Some(&second), None).await, Swap::Committed);
    assert_eq!(client.get(all).await.unwrap().binding, None);
    assert_eq!(swap(one, Some(&own), None).await, Swap::Committed);
    mapd.stop();
}
