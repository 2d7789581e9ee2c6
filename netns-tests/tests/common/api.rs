//! Questions to a forwarder, at its control socket.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

/// Longer than any answer takes, the ones that wait for the mapping service included.
const PATIENCE: Duration = Duration::from_secs(15);

/// `GET /v1/...`, which must succeed.
pub fn get(socket: &Path, what: &str) -> Result<Value> {
    let (status, body) = request(socket, "GET", what, &Value::Null)?;
    ensure!(status == 200, "GET {what}: {status} {body}");
    Ok(body)
}

/// Any request: status and answer. `null` is an empty body.
pub fn request(socket: &Path, method: &str, what: &str, body: &Value) -> Result<(u16, Value)> {
    let doing = || format!("{method} {what} at {}", socket.display());
    let mut stream = UnixStream::connect(socket).with_context(doing)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let body = if body.is_null() {
        String::new()
    } else {
        body.to_string()
    };
    write!(
        stream,
        "{method} /v1/{what} HTTP/1.1\r\nHost: matd\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).with_context(doing)?;
    let (head, body) = answer.split_once("\r\n\r\n").with_context(doing)?;
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    let status = status.with_context(doing)?;
    Ok((status, serde_json::from_str(body).unwrap_or(json!(body))))
}
