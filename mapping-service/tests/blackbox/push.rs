//! Push over TLS: who hears of what, when, and what becomes of those who break the rules.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::{Message as Plain, ResponseCode};
use hickory_proto::rr::{DNSClass, Record, RecordType};
use mat_mapping::client::push::{Changed, Endpoint, Health, Subscriber, certificates};
use mat_mapping::client::{MapClient, Swap};
use mat_mapping::dso::{DSOTYPENI, Message, News, Subscription, Tlv, octet};
use mat_netns::{dns_servers, wait_until};
use mat_proto::{Binding, Home};
use nix::sys::socket::{setsockopt, sockopt};
use tokio::sync::mpsc;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::harness::*;

/// What the example configuration tells people to type.
fn make_certificate(dir: &Path) {
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/mat-mapd.example.toml");
    let example = std::fs::read_to_string(example).unwrap();
    let lines = example
        .lines()
        .skip_while(|line| !line.contains("openssl req"));
    let command: String = lines
        .take_while(|line| line.contains("openssl") || line.starts_with("#     "))
        .map(|line| line.trim_start_matches('#').trim_end_matches('\\'))
        .collect();
    let made = Command::new("sh")
        .args(["-c", &command])
        .current_dir(dir)
        .output()
        .unwrap();
    assert!(made.status.success(), "{command}: {made:?}");
}

/// The configuration with TLS at this address.
fn with_tls(config: &str, port: &str) -> String {
    let tls = format!(
        "[tls]\nlisten = [\"127.0.0.1:{port}\"]\ncertificate = \"mat-mapd.pem\"\nprivate_key = \"mat-mapd.key\"\n\n[[key]]"
    );
    config.replacen("[[key]]", &tls, 1)
}

fn start(dir: &Path, edit: impl Fn(&str) -> String) -> (Mapd, SocketAddr) {
    let port = |file: &str| kept_port(dir, file);
    let config = with_tls(&edit(&config(&port("port"))), &port("tls-port"));
    let mut mapd = Mapd::start_with(dir, &config);
    let listening = mapd.wait_for("listening, TLS address=");
    let tls = listening.rsplit_once('=').unwrap().1.parse().unwrap();
    (mapd, tls)
}

fn endpoint(dir: &Path, address: SocketAddr) -> Endpoint {
    let roots = certificates(&dir.join("mat-mapd.pem")).unwrap();
    Endpoint::new(address, "ns1.map.example", &roots).unwrap()
}

async fn swap(client: &MapClient, home: Home, expect: Option<&Binding>, new: Option<&Binding>) {
    let done = client.compare_and_swap(home, expect, new).await.unwrap();
    assert_eq!(done, Swap::Committed);
}

async fn next(news: &mut mpsc::Receiver<Changed>) -> Changed {
    tokio::time::timeout(PATIENCE, news.recv())
        .await
        .unwrap()
        .unwrap()
}

/// Until push is certain.
fn known(subscriber: &Subscriber, home: Home) -> Option<Binding> {
    tokio::task::block_in_place(|| {
        wait_until(PATIENCE, "push to be certain", || subscriber.get(home)).unwrap()
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changes_is_known_at_once_and_after_an_interruption() {
    let dir = directory();
    make_certificate(dir.path());
    let (mapd, tls) = start(dir.path(), str::to_owned);
    let client = mapd.client();
    let (sender, mut news) = mpsc::channel(16);
    let age = Duration::from_secs(1);
    let subscriber = Subscriber::start(name(ZONE), endpoint(dir.path(), tls), age, sender);
    let first = binding("192.0.2.10", 1, "198.51.100.10");
    let home = first.home();
    assert_eq!(known(&subscriber, home), None);
    assert_eq!(subscriber.health(), Health::Connected(1));

    swap(&client, home, None, Some(&first)).await;
    let changed = |binding: &Binding| Changed {
        whose: home.into(),
        binding: Some(binding.clone()),
    };
    assert_eq!(next(&mut news).await, changed(&first));
    assert_eq!(subscriber.get(home), Some(Some(first.clone())));
    let second = binding("192.0.2.10", 2, "198.51.100.11");
    swap(&client, home, Some(&first), Some(&second)).await;
    assert_eq!(next(&mut news).await, changed(&second));
    // Nobody has asked for that one.
    let other = binding("192.0.2.11", 1, "198.51.100.12");
    swap(&client, other.home(), None, Some(&other)).await;

    mapd.kill();
    let away = || matches!(subscriber.health(), Health::Away(_)).then_some(());
    wait_until(PATIENCE, "the interruption to be noticed", away).unwrap();
    assert_eq!(subscriber.get(home), None);
    let (mapd, _) = start(dir.path(), str::to_owned);
    swap(&client, home, Some(&second), None).await;
    // It may have been connected again before.
    loop {
        let told = next(&mut news).await;
        if told.binding.is_none() {
            break;
        }
        assert_eq!(told, changed(&second));
    }
    let there = known(&subscriber, home);
    assert_eq!(there, None);
    swap(
        &client,
        home,
        None,
        Some(&binding("192.0.2.10", 7, "198.51.100.10")),
    )
    .await;
    assert_eq!(
        next(&mut news).await,
        changed(&binding("192.0.2.10", 7, "198.51.100.10"))
    );
    // It says that it goes.
    mapd.stop();
    wait_until(PATIENCE, "the end to be noticed", away).unwrap();
    let Health::Away(why) = subscriber.health() else {
        panic!("connected");
    };
    assert!(
        why.contains("left alone") || why.contains("refused"),
        "{why}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prefix_is_followed_with_all_that_is_there() {
    let dir = directory();
    make_certificate(dir.path());
    let (mapd, tls) = start(dir.path(), str::to_owned);
    let client = mapd.client();
    let mut there = Vec::new();
    for n in 1..=20 {
        let binding = binding(&format!("192.0.2.{n}"), 1, &format!("198.51.100.{n}"));
        swap(&client, binding.home(), None, Some(&binding)).await;
        there.push(binding);
    }
    let six = binding("2001:db8:1::1", 1, "2001:db8:a::1");
    swap(&client, six.home(), None, Some(&six)).await;
    let (sender, mut news) = mpsc::channel(16);
    let below = name("2.0.192.h4.map.example.");
    let _subscriber = Subscriber::follow(name(ZONE), &below, endpoint(dir.path(), tls), sender);
    let mut told = Vec::new();
    for _ in 1..=20 {
        told.extend(next(&mut news).await.binding);
    }
    told.sort_by_key(Binding::home);
    assert_eq!(told, there);
    // What is elsewhere does not come; what comes next is this.
    let again = binding("2001:db8:1::1", 2, "2001:db8:a::2");
    swap(&client, six.home(), Some(&six), Some(&again)).await;
    swap(&client, there[4].home(), Some(&there[4]), None).await;
    let gone = next(&mut news).await;
    assert_eq!((gone.whose, gone.binding), (there[4].home().into(), None));
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_believed_who_has_another_certificate() {
    let dir = directory();
    make_certificate(dir.path());
    let (_mapd, tls) = start(dir.path(), str::to_owned);
    let other = directory();
    make_certificate(other.path());
    let (sender, _news) = mpsc::channel(1);
    let away = |endpoint: Endpoint, sender| async move {
        let age = Duration::from_secs(1);
        let subscriber = Subscriber::start(name(ZONE), endpoint, age, sender);
        let why = || match subscriber.health() {
            Health::Away(why) if why.contains("certificate") => Some(why),
            _ => None,
        };
        tokio::task::block_in_place(|| wait_until(PATIENCE, "the certificate to be refused", why))
            .unwrap()
    };
    away(endpoint(other.path(), tls), sender.clone()).await;
    let roots = certificates(&dir.path().join("mat-mapd.pem")).unwrap();
    let named = Endpoint::new(tls, "ns2.map.example", &roots).unwrap();
    let why = away(named, sender).await;
    assert!(why.contains("name"), "{why}");
}

/// A TLS connection on which anything can be said.
struct Raw(StreamOwned<ClientConnection, TcpStream>);

impl Raw {
    fn connect(dir: &Path, address: SocketAddr) -> Raw {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&dir.join("mat-mapd.pem")).unwrap() {
            roots.add(CertificateDer::from(certificate)).unwrap();
        }
        let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = "ns1.map.example".try_into().unwrap();
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let connection = ClientConnection::new(Arc::new(config), name).unwrap();
        Raw(StreamOwned::new(connection, stream))
    }

    fn say(&mut self, octets: &[u8]) {
        let length = u16::try_from(octets.len()).unwrap().to_be_bytes();
        self.0.write_all(&[&length, octets].concat()).unwrap();
    }

    fn request(&mut self, id: u16, tlv: Tlv) {
        self.say(&Message::Request { id, tlv }.emit().unwrap());
    }

    /// `None`: the connection is closed.
    fn hear(&mut self) -> Option<Vec<u8>> {
        let mut length = [0; 2];
        self.0.read_exact(&mut length).ok()?;
        let mut octets = vec![0; u16::from_be_bytes(length).into()];
        self.0.read_exact(&mut octets).ok()?;
        Some(octets)
    }

    fn message(&mut self) -> Option<Message> {
        Some(Message::parse(&self.hear()?).unwrap())
    }

    fn code_of(&mut self, id: u16, tlv: Tlv) -> u8 {
        self.request(id, tlv);
        match self.message() {
            Some(Message::Response { id: of, code, .. }) if of == id => code,
            other => panic!("{other:?}"),
        }
    }
}

fn at(owner: &str) -> Tlv {
    Tlv::Subscribe(Subscription::at(&name(owner), RecordType::SVCB))
}

fn below(owner: &str) -> Tlv {
    Tlv::Subscribe(Subscription::below(&name(owner), RecordType::SVCB))
}

#[test]
fn sessions_follow_the_rules_and_those_who_do_not_are_cut_off() {
    let dir = directory();
    make_certificate(dir.path());
    let private =
        |config: &str| config.replace("data_dir", "private = [\"192.0.2.128/25\"]\ndata_dir");
    let (mapd, tls) = start(dir.path(), private);
    let codes = [
        (
            at(&format!("10.2.0.192.h4.{ZONE}")),
            octet(ResponseCode::NoError),
        ),
        (
            at(&format!("200.2.0.192.h4.{ZONE}")),
            octet(ResponseCode::Refused),
        ),
        (
            below(&format!("2.0.192.h4.{ZONE}")),
            octet(ResponseCode::Refused),
        ),
        (below(ZONE), octet(ResponseCode::Refused)),
        (
            at("10.2.0.192.h4.other.example."),
            octet(ResponseCode::NotAuth),
        ),
        (Tlv::Unknown(0xf841), DSOTYPENI),
    ];
    let mut session = Raw::connect(dir.path(), tls);
    for (n, (tlv, code)) in codes.into_iter().enumerate() {
        assert_eq!(session.code_of(n as u16 + 1, tlv), code, "{n}");
    }
    // Questions beside it, also long ones that are no DSO message.
    let question = hickory_proto::op::Query::query(name(ZONE), RecordType::SOA);
    let mut plain = Plain::new(
        7,
        hickory_proto::op::MessageType::Query,
        hickory_proto::op::OpCode::Query,
    );
    plain.add_query(question);
    session.say(&plain.to_vec().unwrap());
    let answer = Plain::from_vec(&session.hear().unwrap()).unwrap();
    assert_eq!((answer.metadata.id, answer.answers.len()), (7, 1));

    // What was subscribed to comes, first whole; what was unsubscribed from does not.
    let update = |home: u8, epoch: u32| {
        let done = mapd.nsupdate(&format!(
            "update delete {home}.2.0.192.h4.{ZONE} SVCB\nupdate add {home}.2.0.192.h4.{ZONE} 0 SVCB 1 . ipv4hint=198.51.100.{home} key65280={epoch} key65281=native key65282=30"
        ));
        assert!(done.ok, "{}", done.text);
    };
    update(10, 1);
    let push = |session: &mut Raw| match session.message() {
        Some(Message::Unidirectional {
            tlv: Tlv::Push(news),
            ..
        }) => news,
        other => panic!("{other:?}"),
    };
    let news = push(&mut session);
    let cleared = News::Cleared(name(&format!("10.2.0.192.h4.{ZONE}")), RecordType::SVCB);
    assert_eq!(news[0], cleared);
    assert!(
        matches!(&news[1..], [News::Added(record)] if record.ttl == 0),
        "{news:?}"
    );
    assert_eq!(session.code_of(8, at(&format!("11.2.0.192.h4.{ZONE}"))), 0);
    let over = Message::Unidirectional {
        code: 0,
        tlv: Tlv::Unsubscribe(1),
    };
    session.say(&over.emit().unwrap());
    // The answer shows that it has been read.
    assert_eq!(session.code_of(9, Tlv::Unknown(0xf841)), DSOTYPENI);
    update(10, 2);
    update(11, 1);
    let news = push(&mut session);
    assert_eq!(
        news[0],
        News::Cleared(name(&format!("11.2.0.192.h4.{ZONE}")), RecordType::SVCB)
    );

    // Who breaks the rules.
    let faults: [&[Message]; 5] = [
        &[
            Message::Request {
                id: 1,
                tlv: at(ZONE),
            },
            Message::Request {
                id: 1,
                tlv: at(&format!("h4.x.{ZONE}")),
            },
        ],
        &[
            Message::Request {
                id: 1,
                tlv: at(ZONE),
            },
            Message::Request {
                id: 2,
                tlv: at(ZONE),
            },
        ],
        // Nothing is established.
        &[Message::Unidirectional {
            code: 0,
            tlv: Tlv::Unsubscribe(1),
        }],
        &[Message::Response {
            id: 4,
            code: 0,
            tlv: None,
        }],
        &[Message::Request {
            id: 5,
            tlv: Tlv::Push(Vec::new()),
        }],
    ];
    for (n, messages) in faults.into_iter().enumerate() {
        let mut session = Raw::connect(dir.path(), tls);
        for message in messages {
            session.say(&message.emit().unwrap());
        }
        let mut said = 0;
        while session.hear().is_some() {
            said += 1;
        }
        assert!(said <= 1, "{n}: {said}");
    }
    // Garbage instead of a handshake, and a session without TLS.
    let mut garbage = TcpStream::connect(tls).unwrap();
    garbage.set_read_timeout(Some(PATIENCE)).unwrap();
    garbage.write_all(&[0x5a; 600]).unwrap();
    assert!(garbage.read_to_end(&mut Vec::new()).is_ok_and(|n| n < 100));
    let keepalive = Message::Request {
        id: 1,
        tlv: at(ZONE),
    }
    .emit()
    .unwrap();
    let mut plain = TcpStream::connect(mapd.address).unwrap();
    plain.set_read_timeout(Some(PATIENCE)).unwrap();
    plain
        .write_all(&[&(keepalive.len() as u16).to_be_bytes()[..], &keepalive].concat())
        .unwrap();
    let mut answer = [0; 6];
    plain.read_exact(&mut answer).unwrap();
    assert_eq!(
        (answer[5] & 0xf, answer[4] >> 3 & 0xf),
        (octet(ResponseCode::NotImp), 6)
    );
    mapd.stop();
}

/// Knot's tools: `knsupdate` claims and moves, `kdig` reads over TLS and checks the certificate.
#[test]
fn knots_tools_change_and_read() {
    if !["kdig", "knsupdate"]
        .map(dns_servers::is_here)
        .into_iter()
        .all(|here| here)
    {
        return;
    }
    let dir = directory();
    make_certificate(dir.path());
    let (mapd, tls) = start(dir.path(), str::to_owned);
    let run = |program: &str, arguments: &[&str], script: &str| {
        std::fs::write(dir.path().join("script"), script).unwrap();
        let mut command = dns_servers::program(program).unwrap().command();
        let output = command
            .args(arguments)
            .current_dir(dir.path())
            .output()
            .unwrap();
        let text = [output.stdout, output.stderr].concat();
        (
            output.status.success(),
            String::from_utf8_lossy(&text).into_owned(),
        )
    };
    let knsupdate = |lines: &str| {
        let port = mapd.address.port();
        let script = format!("server 127.0.0.1 {port}\nzone {ZONE}\n{lines}\nsend\n");
        let key = format!("hmac-sha256:site-a:{SECRET_A}");
        run("knsupdate", &["-y", &key, "script"], &script)
    };
    let owner = format!("10.2.0.192.h4.{ZONE}");
    let data = |epoch: u8| {
        format!(
            "1 . ipv4hint=198.51.100.{epoch} key65280=\"{epoch}\" key65281=\"native\" key65282=\"30\""
        )
    };
    let claim = format!(
        "prereq nxrrset {owner} SVCB\nupdate add {owner} 0 SVCB {}",
        data(1)
    );
    let (done, said) = knsupdate(&claim);
    assert!(done, "{said}");
    let (done, said) = knsupdate(&claim);
    assert!(!done && said.contains("YXRRSET"), "{said}");
    let (done, said) = knsupdate(&format!(
        "prereq yxrrset {owner} SVCB {}\nupdate del {owner} SVCB\nupdate add {owner} 0 SVCB {}",
        data(1),
        data(2)
    ));
    assert!(done, "{said}");
    let port = tls.port().to_string();
    let kdig = |name: &str| {
        let name = format!("+tls-hostname={name}");
        let ask = [
            "@127.0.0.1",
            "-p",
            &port,
            "+tls",
            "+tls-ca=mat-mapd.pem",
            &name,
            &owner,
            "SVCB",
        ];
        run("kdig", &ask, "").1
    };
    let said = kdig("ns1.map.example");
    assert!(
        said.contains("198.51.100.2") && said.contains("TLS session"),
        "{said}"
    );
    let said = kdig("ns2.map.example");
    assert!(!said.contains("198.51.100.2"), "{said}");
    mapd.stop();
}

/// What `check-config` says of certificates that no client would believe, and what a client says.
#[test]
fn a_certificate_that_cannot_be_used_is_refused_with_the_mend() {
    let dir = directory();
    let openssl = |more: &str| {
        let command = format!(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes {more} \
             -subj /CN=ns1.map.example -keyout mat-mapd.key -out mat-mapd.pem"
        );
        let made = Command::new("openssl")
            .args(command.split_ascii_whitespace())
            .current_dir(dir.path())
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
    };
    let check = || run(dir.path(), &with_tls(&config("0"), "0"), &["check-config"]);
    let name = "-addext subjectAltName=DNS:ns1.map.example";
    let no_authority = "-addext basicConstraints=critical,CA:FALSE";
    openssl(&format!("-days 9 {name} {no_authority}"));
    let (ok, said) = check();
    assert!(ok, "{said}");
    for (more, wanted) in [
        (
            format!("-days 9 {name}"),
            "basicConstraints=critical,CA:FALSE",
        ),
        (format!("-days 9 {no_authority}"), "subjectAltName"),
    ] {
        openssl(&more);
        let (ok, said) = check();
        assert!(
            !ok && said.contains("tls.certificate") && said.contains(wanted),
            "{said}"
        );
    }
    let key = std::fs::read(dir.path().join("mat-mapd.key")).unwrap();
    std::fs::write(dir.path().join("mat-mapd.pem"), key).unwrap();
    let (ok, said) = check();
    assert!(
        !ok && said.contains("holds no certificate in PEM form"),
        "{said}"
    );
}

/// Subscriptions that match nothing cost a look at every name: others do not wait for them, nor for
/// whoever leaves with many.
#[test]
fn many_subscriptions_stop_nobody() {
    let dir = directory();
    make_certificate(dir.path());
    let (mapd, tls) = start(dir.path(), str::to_owned);
    let mut session = Raw::connect(dir.path(), tls);
    let x = format!("x.{ZONE}");
    for n in 0..40u16 {
        let kind = RecordType::from(1000 + n);
        let below = Tlv::Subscribe(Subscription::below(&name(ZONE), kind));
        let code = session.code_of(n + 1, below);
        let refused = if n < 16 {
            ResponseCode::NoError
        } else {
            ResponseCode::ServFail
        };
        assert_eq!(code, octet(refused), "{n}");
    }
    drop(session);
    let mut sessions: Vec<Raw> = (0..4).map(|_| Raw::connect(dir.path(), tls)).collect();
    for session in &mut sessions {
        for n in 0..8_000u16 {
            let kind = RecordType::from(1000 + n);
            let at = Tlv::Subscribe(Subscription::at(&name(&x), kind));
            assert_eq!(session.code_of(n + 1, at), 0, "{n}");
        }
    }
    drop(sessions);
    let begun = std::time::Instant::now();
    let said = mapd.dig(&format!("+tcp {ZONE} SOA +short"));
    assert!(said.contains("hostmaster"), "{said}");
    println!("answered over TCP after {:?}", begun.elapsed());
    mapd.stop();
}

/// Gives as many homes of 2001:db8:1::/48 this epoch, in one message.
fn change(mapd: &Mapd, count: u32, epoch: u64) {
    let mut updates = Vec::new();
    for n in 1..=count {
        let host = format!("{n:x}");
        let binding = binding(
            &format!("2001:db8:1::{host}"),
            epoch,
            &format!("2001:db8:a::{host}"),
        );
        let records = mat_proto::record::to_records(&binding, &name(ZONE), 0).unwrap();
        let mut delete = Record::update0(records[0].name.clone(), 0, RecordType::SVCB);
        delete.dns_class = DNSClass::ANY;
        updates.push(delete);
        updates.extend(records);
    }
    let (wire, _) = signed_update(&key_a(), now(), Vec::new(), updates);
    let mut stream = TcpStream::connect(mapd.address).unwrap();
    let length = u16::try_from(wire.len()).unwrap().to_be_bytes();
    stream.write_all(&[&length, &wire[..]].concat()).unwrap();
    let mut answer = [0; 6];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer[5] & 0xf, octet(ResponseCode::NoError));
}

#[test]
fn who_reads_late_is_told_what_is_newest_and_not_all_that_was() {
    const HOMES: u32 = 300;
    const ROUNDS: u64 = 8;
    let dir = directory();
    make_certificate(dir.path());
    let (mapd, tls) = start(dir.path(), str::to_owned);
    let mut session = Raw::connect(dir.path(), tls);
    // The kernel takes little for it from now on.
    setsockopt(&session.0.sock, sockopt::RcvBuf, &4096).unwrap();
    assert_eq!(
        session.code_of(1, below(ZONE)),
        octet(ResponseCode::NoError)
    );
    for epoch in 1..=ROUNDS {
        change(&mapd, HOMES, epoch);
    }
    let mut newest = BTreeSet::new();
    let mut told = 0;
    while newest.len() < HOMES as usize {
        let Some(Message::Unidirectional {
            tlv: Tlv::Push(news),
            ..
        }) = session.message()
        else {
            panic!("cut off after {told} of the changes");
        };
        for record in news.iter().filter_map(|news| match news {
            News::Added(record) => Some(record),
            _ => None,
        }) {
            told += 1;
            if record
                .data
                .to_string()
                .contains(&format!("key65280=\"{ROUNDS}\""))
            {
                newest.insert(record.name.to_string());
            }
        }
    }
    println!(
        "told {told} of {} changes",
        HOMES as usize * ROUNDS as usize
    );
    assert!(told < HOMES as usize * ROUNDS as usize / 2, "{told}");

    mapd.stop();
}
