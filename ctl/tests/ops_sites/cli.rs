//! The command line against pretended forwarders: what is printed where, and exit codes.

use super::fake::{Fault, Sites};
use super::{code, err, has, matctl, out, with};
use serde_json::{Value, json};

const WEB: &str = "[[instance]]\nname = \"web\"\nhomes = [\"192.0.2.10\"]\ninterface = \"v1\"\n";

#[test]
fn wrong_usage_is_code_2_and_wrong_configuration_code_1() {
    assert_eq!(code(&matctl(&["status", "--nonsense"])), 2);
    assert_eq!(code(&matctl(&["move", "web"])), 2);
    assert_eq!(code(&matctl(&["map", "set", "192.0.2.10", "site-b"])), 2);
    assert_eq!(
        code(&matctl(&[
            "map",
            "set",
            "192.0.2.10",
            "203.0.113.7",
            "--force",
            "--expect-epoch",
            "3"
        ])),
        2
    );

    let missing = matctl(&["status", "--config", "/no/such/file.toml"]);
    assert_eq!(code(&missing), 1);
    has(
        &err(&missing),
        &["matctl: /no/such/file.toml: cannot be read: No such file"],
    );

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("matctl.toml");
    std::fs::write(&path, "[[site]]\nname = \"a\"\nsockets = \"/x\"\n").unwrap();
    let wrong = with(&path, &["status"]);
    assert_eq!((code(&wrong), out(&wrong)), (1, String::new()));
    has(
        &err(&wrong),
        &[
            "matctl.toml:3: site.sockets: unknown field `sockets`",
            "correct or remove it",
        ],
    );

    std::fs::write(&path, WEB).unwrap();
    let no_site = with(&path, &["status"]);
    has(
        &err(&no_site),
        &["names no [[site]]; add one, or use --socket"],
    );
    let no_mapping = with(&path, &["map", "list"]);
    assert_eq!(code(&no_mapping), 1);
    has(&err(&no_mapping), &["has no [mapping]: name `servers`"]);
}

#[test]
fn status_shows_each_site_and_what_is_wrong() {
    let sites = Sites::new(&["192.0.2.10"]);
    let config = sites.config("");
    let status = with(&config, &["status"]);
    assert_eq!((code(&status), err(&status)), (0, String::new()));
    let text = out(&status);
    has(
        &text,
        &[
            "site a: gateway (tun), matd 0.1.0, pid 4711",
            "mapping service: answers, trust tsig\n",
            "home 192.0.2.10: serving at 198.51.100.7, epoch 100, behind veth-a (02:00:00:00:00:10)",
            "last move: 1 of 1 peers followed, the last after 1.5 ms",
            "not attached: 192.0.2.99: peers look for it at 198.51.100.9",
            "context 192.0.2.10 <-> 192.0.2.20: open, native, 198.51.100.7 <-> 198.51.100.20, \
             epoch 5, lease 25 s, rtt 20.4 ms, sent 10 packets 15.0 kB, received 9 packets 900 B",
            "peers that are not mobile are reached by pass",
            "not simply forwarded: hold_full 3\n",
            "site b: ",
            "UNREACHABLE since 2026-07-31 12:13:20.123: no answer from the mapping service",
            "ANSWERS ARE NOT AUTHENTICATED and count all the same",
            "no home is attached",
        ],
    );
    let only = out(&with(&config, &["status", "--site", "b"]));
    assert!(
        only.starts_with("site b") && !only.contains("site a:"),
        "{only}"
    );
    let unknown = with(&config, &["status", "--site", "c"]);
    has(
        &err(&unknown),
        &["no site is called \"c\"; known are: a, b"],
    );
}

#[test]
fn a_site_that_is_away_does_not_hide_the_others() {
    let sites = Sites::new(&["192.0.2.10"]);
    let config = sites.config("[[site]]\nname = \"c\"\nsocket = \"/no/such/matd.sock\"\n");
    let status = with(&config, &["status"]);
    assert_eq!(code(&status), 1);
    has(&out(&status), &["site a: gateway", "site b: gateway"]);
    has(
        &err(&status),
        &[
            "site c: no forwarder answers at /no/such/matd.sock: No such file or directory",
            "is matd running",
        ],
    );
    let json = with(&config, &["status", "--json"]);
    assert_eq!(code(&json), 1);
    let value: Value = serde_json::from_str(&out(&json)).unwrap();
    assert_eq!(value["sites"][0]["report"]["homes"][0]["state"], "serving");
    has(
        value["sites"][2]["error"].as_str().unwrap(),
        &["no forwarder answers at"],
    );

    // A socket that was left behind.
    let dead = sites.dir().join("dead.sock");
    drop(std::os::unix::net::UnixListener::bind(&dead).unwrap());
    let dead = matctl(&["status", "--socket", dead.to_str().unwrap()]);
    assert_eq!(code(&dead), 1);
    has(
        &err(&dead),
        &["Connection refused", "its matd is not running"],
    );
}

#[test]
fn of_two_gateways_the_one_on_duty_is_asked() {
    let sites = Sites::new(&["192.0.2.10"]);
    let config = sites.dir().join("pair.toml");
    let (one, two) = (&sites.a.socket, &sites.b.socket);
    let text = format!("[[site]]\nname = \"p\"\nsocket = {one:?}\nother_socket = {two:?}\n");
    std::fs::write(&config, &text).unwrap();
    let asked = |duties: [&'static str; 2]| {
        sites.world().duties = ["a", "b"]
            .map(str::to_owned)
            .into_iter()
            .zip(duties)
            .collect();
        with(&config, &["status"])
    };
    has(
        &out(&asked(["active", "standby"])),
        &["calls itself site a", "on duty"],
    );
    has(
        &out(&asked(["standby", "alone"])),
        &["calls itself site b", "NOBODY STANDS BY"],
    );

    // Neither: the status can be seen, and nothing can be done.
    let neither = asked(["standby", "standby"]);
    has(&out(&neither), &["one of two gateways: standing by"]);
    assert!(
        !out(&neither).contains("mapping service"),
        "{}",
        out(&neither)
    );
    let detach = with(&config, &["evacuate", "--from", "p", "--to", "p"]);
    assert_eq!(code(&detach), 1);

    // One has gone.
    std::fs::remove_file(one).unwrap();
    has(&out(&asked(["active", "active"])), &["calls itself site b"]);
    std::fs::remove_file(two).unwrap();
    let gone = with(&config, &["status"]);
    assert_eq!(code(&gone), 1);
    has(&err(&gone), &["site p: no forwarder answers at", "a.sock"]);

    std::fs::write(&config, text.replace("b.sock", "a.sock")).unwrap();
    let twice = with(&config, &["status"]);
    has(
        &err(&twice),
        &["pair.toml:4: site.other_socket", "is `socket`"],
    );
}

#[test]
fn one_forwarder_can_be_asked_without_a_configuration() {
    let sites = Sites::new(&["192.0.2.10"]);
    let socket = sites.a.socket.to_str().unwrap();
    let status = matctl(&["status", "--socket", socket]);
    assert_eq!(code(&status), 0);
    has(
        &out(&status),
        &["calls itself site a", "home 192.0.2.10: serving"],
    );
    let explain = matctl(&["explain", "192.0.2.10", "192.0.2.20", "--socket", socket]);
    assert_eq!(code(&explain), 0);
    has(
        &out(&explain),
        &["192.0.2.10 -> 192.0.2.20: native: the context is open"],
    );
    let detach = matctl(&["detach", "192.0.2.10", "--socket", socket]);
    assert_eq!(code(&detach), 0);
    has(
        &out(&detach),
        &["192.0.2.10 is detached; it had 1 contexts"],
    );
    let again = matctl(&["detach", "192.0.2.10", "--socket", socket]);
    assert_eq!(code(&again), 1);
    has(&err(&again), &["not attached here"]);
    let name = matctl(&["detach", "web", "--socket", socket]);
    has(
        &err(&name),
        &["with --socket an instance is named by its home address"],
    );
}

#[test]
fn explain_shows_every_site_with_local_times() {
    let sites = Sites::new(&["192.0.2.10"]);
    let config = sites.config("");
    let explain = with(&config, &["explain", "192.0.2.10", "192.0.2.20"]);
    assert_eq!(code(&explain), 0);
    has(
        &out(&explain),
        &[
            "site a: 192.0.2.10 -> 192.0.2.20: native",
            "site b: 192.0.2.10 -> 192.0.2.20: drop",
            "2026-07-31 12:13:20.123  192.0.2.10 <-> 192.0.2.20: opened",
        ],
    );
    let json = with(
        &config,
        &[
            "explain",
            "192.0.2.10",
            "192.0.2.20",
            "--site",
            "a",
            "--json",
        ],
    );
    let value: Value = serde_json::from_str(&out(&json)).unwrap();
    assert_eq!(value[0]["explanation"]["verdict"], "native");
}

#[test]
fn attach_and_detach_name_one_site() {
    let sites = Sites::new(&[]);
    let config = sites.config(WEB);
    let which = with(&config, &["attach", "web"]);
    assert_eq!(code(&which), 1);
    has(&err(&which), &["which site?"]);
    let attach = with(&config, &["attach", "web", "--site", "b", "--no-claim"]);
    assert_eq!(code(&attach), 0);
    {
        let world = sites.world();
        assert_eq!(world.log, ["b attach 192.0.2.10"]);
        assert_eq!(
            (&world.bodies[0]["claim"], &world.bodies[0]["interface"]),
            (&json!(false), &json!("v1"))
        );
    }
    let detach = with(&config, &["detach", "web", "--site", "b", "--json"]);
    let value: Value = serde_json::from_str(&out(&detach)).unwrap();
    assert_eq!(value[0]["contexts"], 1);
    assert!(!out(&detach).contains("1111"), "a token is shown");
}

#[test]
fn a_move_with_a_command_of_ones_own() {
    let sites = Sites::new(&["192.0.2.10"]);
    let config = sites.config(WEB);
    let log = sites.dir().join("log");
    let command = format!(
        "echo $MAT_INSTANCE $MAT_FROM $MAT_TO $MAT_HOMES >> {}",
        log.display()
    );
    let moved = with(&config, &["move", "web", "--to", "b", "--exec", &command]);
    assert_eq!((code(&moved), err(&moved)), (0, String::new()));
    has(
        &out(&moved),
        &[
            "web moved from a to b (driver exec)",
            "192.0.2.10: 198.51.100.7 -> 203.0.113.7, epoch 100 -> 102",
            "1 of 1 peers followed within 1.5 ms",
        ],
    );
    assert_eq!(
        std::fs::read_to_string(log).unwrap(),
        "web a b 192.0.2.10\n"
    );

    let again = with(&config, &["move", "web", "--to", "b", "--exec", &command]);
    assert_eq!(code(&again), 0);
    assert_eq!(out(&again), "web is at b already; nothing to do\n");

    // Back, by its address, with somebody else moving it.
    let back = with(
        &config,
        &[
            "move",
            "192.0.2.10",
            "--to",
            "a",
            "--driver",
            "none",
            "--json",
        ],
    );
    assert_eq!(code(&back), 0, "{}", err(&back));
    let value: Value = serde_json::from_str(&out(&back)).unwrap();
    assert_eq!(
        (&value["moved"], &value["from"], &value["epoch_after"]),
        (&json!(true), &json!("b"), &json!(104))
    );
}

#[test]
fn a_move_that_fails_says_so_and_can_be_tried_again() {
    let sites = Sites::new(&["192.0.2.10"]);
    let config = sites.config(WEB);
    let failed = with(&config, &["move", "web", "--to", "b", "--exec", "exit 7"]);
    assert_eq!((code(&failed), out(&failed)), (1, String::new()));
    has(
        &err(&failed),
        &[
            "web was not moved from a to b: step relocate failed: `exit 7` ended with exit status: 7",
            "rolled back: 192.0.2.10 is served at a again",
            "the move can be tried again",
        ],
    );
    sites.fault("b", "activate", "192.0.2.10", Fault::Refuse);
    assert_eq!(
        code(&with(
            &config,
            &["move", "web", "--to", "b", "--exec", "true"]
        )),
        1
    );
    sites.world().faults.clear();
    assert_eq!(
        code(&with(
            &config,
            &["move", "web", "--to", "b", "--exec", "true"]
        )),
        0
    );
}

#[test]
fn a_move_nobody_would_make_is_refused() {
    let sites = Sites::new(&["192.0.2.10"]);
    let config = sites.config(&format!(
        "{WEB}[[site]]\nname = \"c\"\nsocket = \"/no/such/c.sock\"\n"
    ));
    let cases: [(&[&str], &str); 7] = [
        (&["web", "--to", "b"], "what is to move web itself?"),
        (
            &["web", "--to", "b", "--driver", "exec"],
            "needs the command",
        ),
        (
            &["web", "--to", "b", "--driver", "none", "--exec", "true"],
            "--exec is only for",
        ),
        (
            &["web", "--to", "b", "--driver", "netns"],
            "add netns = \"...\" to [[site]] a",
        ),
        (
            &["web", "--to", "d", "--driver", "none"],
            "no site is called \"d\"; known are: a, b, c",
        ),
        (&["wep", "--to", "b", "--driver", "none"], "known are: web"),
        (
            &["192.0.2.11", "--to", "b", "--driver", "none"],
            "no site that answers has 192.0.2.11 attached",
        ),
    ];
    for (args, wanted) in cases {
        let output = with(&config, &[&["move"], args].concat());
        assert_eq!(code(&output), 1, "{args:?}");
        has(&err(&output), &[wanted]);
    }
    let away = with(&config, &["move", "web", "--to", "c", "--driver", "none"]);
    has(
        &err(&away),
        &[
            "step check failed: site c: no forwarder answers",
            "nothing had been changed",
        ],
    );
    assert!(sites.world().log.is_empty());
}

#[test]
fn interrupted_in_the_middle_a_move_is_undone_first() {
    let sites = Sites::new(&["192.0.2.10"]);
    let config = sites.config(WEB);
    // What Ctrl-C does: the signal reaches matctl and the command it runs.
    let command = "kill -INT $PPID; kill -INT $$; exit 1";
    let output = with(&config, &["move", "web", "--to", "b", "--exec", command]);
    assert_eq!(code(&output), 1, "{output:?}");
    has(
        &err(&output),
        &[
            "interrupted; the move was brought to its end first",
            "rolled back: 192.0.2.10 is served at a again",
        ],
    );
    assert_eq!(sites.world().state("a", "192.0.2.10"), Some("serving"));
    assert_eq!(sites.world().state("b", "192.0.2.10"), None);
}

const DB: &str = "[[instance]]\nname = \"db\"\nhomes = [\"192.0.2.11\", \"192.0.2.12\"]\n";

#[test]
fn evacuation_moves_everything_and_says_what_stays() {
    let sites = Sites::new(&["192.0.2.10", "192.0.2.11", "192.0.2.12", "192.0.2.13"]);
    let config = sites.config(&format!("{WEB}{DB}"));
    let args = ["evacuate", "--from", "a", "--to", "b", "--exec"];
    // One of them cannot be moved; the others do.
    let fussy = "test $MAT_INSTANCE != db";
    let first = with(&config, &[&args[..], &[fussy]].concat());
    assert_eq!(code(&first), 1);
    has(
        &out(&first),
        &[
            "web moved, blackout ",
            "192.0.2.13 moved, blackout ",
            "2 instances moved from a to b in ",
            "1 could not be moved, 0 were left: see `matctl status --site a`",
        ],
    );
    has(
        &err(&first),
        &[
            "db was not moved from a to b: step relocate failed",
            "192.0.2.12 is served at a again",
        ],
    );
    assert_eq!(sites.world().state("a", "192.0.2.11"), Some("serving"));

    // The same again moves the rest; an instance whose homes are not all there stays.
    sites
        .world()
        .bound
        .insert("192.0.2.12".to_owned(), ("b".to_owned(), 200));
    let split = with(&config, &[&args[..], &["true"]].concat());
    assert_eq!(code(&split), 1);
    has(
        &err(&split),
        &["db is left: 192.0.2.12 is not serving there"],
    );
    sites
        .world()
        .bound
        .insert("192.0.2.12".to_owned(), ("a".to_owned(), 201));
    let rest = with(&config, &[&args[..], &["true", "--json"]].concat());
    assert_eq!(code(&rest), 0, "{}", err(&rest));
    let said: Value = serde_json::from_str(&out(&rest)).unwrap();
    assert_eq!(said["moved"][0]["instance"], "db");
    assert_eq!((&said["failed"], &said["left"]), (&json!([]), &json!([])));

    let empty = with(&config, &[&args[..], &["true"]].concat());
    assert_eq!(code(&empty), 0);
    has(&out(&empty), &["0 instances moved"]);
    let same = with(&config, &["evacuate", "--from", "a", "--to", "a"]);
    has(&err(&same), &["--from and --to are the same site, a"]);
}

#[test]
fn a_move_step_by_step_asks_and_ends_with_standard_input() {
    let sites = Sites::new(&["192.0.2.10"]);
    let config = sites.config(WEB);
    // The tests give no standard input.
    let args = ["move", "web", "--to", "b", "--exec", "true", "--step"];
    let output = with(&config, &args);
    assert_eq!(code(&output), 1);
    has(
        &err(&output),
        &[
            "next: prepare (Enter: go on, n: undo)",
            "step prepare failed: standard input has ended\nnothing had been changed",
        ],
    );
    assert!(sites.world().log.is_empty());
}
