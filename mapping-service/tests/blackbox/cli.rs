//! The command line and the configuration: each mistake named, exit status not 0.

use std::process::Command;

use crate::harness::*;

#[test]
fn check_config_finds_mistakes_and_starts_nothing() {
    let dir = directory();
    let (ok, said) = run(dir.path(), &config("53"), &["check-config"]);
    assert!(ok && said.contains("2 key(s): no mistakes found"), "{said}");
    let wrong = config("53").replace("192.0.2.0/25", "192.0.2.0/33");
    for arguments in [&["check-config"][..], &[]] {
        let (ok, said) = run(dir.path(), &wrong, arguments);
        assert!(!ok);
        assert!(
            said.contains("run.toml:17: key.homes = \"192.0.2.0/33\""),
            "{said}"
        );
    }
    let (ok, said) = run_file(&dir.path().join("missing.toml"), &[]);
    assert!(
        !ok && said.contains("name the configuration with --config FILE"),
        "{said}"
    );
    let (ok, said) = run(dir.path(), &config("53"), &["chekc-config"]);
    assert!(!ok && said.contains("check-config"), "{said}");
}

#[test]
fn secrets_are_never_shown() {
    let short = config("53").replace(SECRET_A, "c2VjcmV0");
    let dir = directory();
    let (ok, said) = run(dir.path(), &short, &["check-config"]);
    assert!(!ok && said.contains("6 octets"), "{said}");
    assert!(!said.contains("c2VjcmV0"), "{said}");
    let broken = config("53").replace(&format!("\"{SECRET_A}\""), "c2VjcmV0!");
    let (ok, said) = run(dir.path(), &broken, &["check-config"]);
    assert!(!ok && !said.contains("c2VjcmV0"), "{said}");
}

#[test]
fn ready_is_told_to_the_service_manager() {
    let dir = directory();
    let path = dir.path().join("notify");
    let socket = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let data = dir.path().join("data").display().to_string();
    let file = dir.path().join("mapd.toml");
    std::fs::write(&file, config("0").replace("DATA", &data)).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_mat-mapd"))
        .arg("--config")
        .arg(&file)
        .env("NOTIFY_SOCKET", &path)
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let mut buffer = [0; 256];
    let told = socket.recv(&mut buffer).map(|len| buffer[..len].to_vec());
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(told.unwrap(), b"READY=1\n");
}

#[test]
fn metrics_are_served() {
    let dir = directory();
    let config = config("0").replace("data_dir", "metrics_listen = \"127.0.0.1:0\"\ndata_dir");
    let mut mapd = Mapd::start_with(dir.path(), &config);
    mapd.dig(&format!("{ZONE} SOA"));
    let text = mapd.metrics();
    for wanted in [
        "mat_map_names 1\n",
        "mat_map_serial 1\n",
        "mat_map_events_total{cause=\"queries\"} 1\n",
        "mat_map_journal_bytes ",
    ] {
        assert!(text.contains(wanted), "{wanted}: {text}");
    }
    mapd.stop();
}
