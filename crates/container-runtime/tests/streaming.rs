//! Exec and attach by URL, over WebSocket. Needs root.

#![allow(missing_docs)]

mod support;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use cri::{Runtime, v1};
use futures::{SinkExt, StreamExt};
use support::{DEADLINE, Node, container, words};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tungstenite::Message;
use tungstenite::protocol::Role;

struct Client {
    socket: WebSocketStream<TcpStream>,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

/// Opens a streaming URL; the answer's first line if it is refused.
async fn open(url: &str, protocol: &str) -> Result<Client, String> {
    let rest = url.strip_prefix("http://").expect("scheme");
    let (address, path) = rest.split_once('/').expect("path");
    let mut stream = TcpStream::connect(address).await.expect("connect");
    let request = format!(
        "GET /{path} HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: {protocol}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.expect("request");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.expect("response"));
    }
    let head = String::from_utf8(head).expect("text");
    if !head.starts_with("HTTP/1.1 101") {
        return Err(head.lines().next().unwrap_or_default().to_owned());
    }
    assert!(head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{head}");
    assert!(head.to_lowercase().contains(&format!("sec-websocket-protocol: {protocol}")), "{head}");
    let socket = WebSocketStream::from_raw_socket(stream, Role::Client, None).await;
    Ok(Client { socket, stdout: Vec::new(), stderr: Vec::new() })
}

impl Client {
    async fn send(&mut self, channel: u8, payload: &[u8]) {
        let bytes = [&[channel], payload].concat();
        self.socket.send(Message::Binary(bytes.into())).await.expect("send");
    }

    /// Takes one message; the outcome if it is that.
    async fn receive(&mut self) -> Option<serde_json::Value> {
        let message = tokio::time::timeout(DEADLINE, self.socket.next()).await.expect("message").expect("open").expect("message");
        let bytes = match message {
            Message::Binary(bytes) => bytes.to_vec(),
            // The base64 protocols: the channel as a digit, then the payload.
            Message::Text(text) => {
                let (channel, payload) = text.split_at(1);
                [vec![channel.parse().expect("channel")], BASE64.decode(payload).expect("base64")].concat()
            }
            other => panic!("unexpected {other:?}"),
        };
        match bytes[0] {
            1 => self.stdout.extend_from_slice(&bytes[1..]),
            2 => self.stderr.extend_from_slice(&bytes[1..]),
            3 => return Some(serde_json::from_slice(&bytes[1..]).expect("status")),
            other => panic!("channel {other}"),
        }
        None
    }

    async fn outcome(&mut self) -> serde_json::Value {
        loop {
            if let Some(outcome) = self.receive().await {
                return outcome;
            }
        }
    }

    async fn until(&mut self, text: &str) {
        while !String::from_utf8_lossy(&self.stdout).contains(text) {
            assert!(self.receive().await.is_none(), "ended before {text:?}: {:?}", String::from_utf8_lossy(&self.stdout));
        }
    }
}

async fn exec(node: &Node, id: &str, command: &[&str], tty: bool, protocol: &str) -> Client {
    let request =
        v1::ExecRequest { container_id: id.to_owned(), cmd: words(command), tty, stdin: true, stdout: true, stderr: !tty };
    let url = node.runtime.exec(request).await.expect("exec").url;
    open(&url, protocol).await.expect("upgrade")
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_over_websocket() {
    let node = Node::start().await;
    let sandbox = node.sandbox("ws").await;
    let id = node.run(&sandbox, container("c", &["sleep"])).await;
    let command = ["rusternetes", "cat", "--", "echo-error", "bye", "--", "exit", "4"];
    let mut client = exec(&node, &id, &command, false, "v5.channel.k8s.io").await;
    client.send(0, b"some input").await;
    client.until("some input").await;
    client.send(255, &[0]).await;
    let outcome = client.outcome().await;
    assert_eq!(String::from_utf8_lossy(&client.stderr), "bye\n");
    assert_eq!(outcome["reason"], "NonZeroExitCode");
    assert_eq!(outcome["details"]["causes"][0]["message"], "4");

    let mut client = exec(&node, &id, &["rusternetes", "echo", "x"], false, "v4.channel.k8s.io").await;
    assert_eq!(client.outcome().await["status"], "Success");
    assert_eq!(client.stdout, b"x\n");
    let mut client = exec(&node, &id, &["nope"], false, "v5.channel.k8s.io").await;
    let outcome = client.outcome().await;
    assert!(outcome["message"].as_str().expect("message").contains("executable file not found in $PATH"), "{outcome}");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_in_base64() {
    let node = Node::start().await;
    let sandbox = node.sandbox("base64").await;
    let id = node.run(&sandbox, container("c", &["sleep"])).await;
    let mut client = exec(&node, &id, &["rusternetes", "cat"], false, "v4.base64.channel.k8s.io").await;
    client.socket.send(Message::Text(format!("0{}", BASE64.encode("some input")).into())).await.expect("send");
    client.until("some input").await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn exec_with_terminal() {
    let node = Node::start().await;
    let sandbox = node.sandbox("tty").await;
    let id = node.run(&sandbox, container("c", &["sleep"])).await;
    let mut client = exec(&node, &id, &["rusternetes", "terminal"], true, "v5.channel.k8s.io").await;
    client.until("ready").await;
    client.send(4, br#"{"Width":123,"Height":45}"#).await;
    client.send(0, b"size\n").await;
    client.until("123x45").await;
    client.send(0, b"quit\n").await;
    assert_eq!(client.outcome().await["status"], "Success");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attach_reads_and_writes_the_first_process() {
    let node = Node::start().await;
    let sandbox = node.sandbox("attach").await;
    let mut config = container("c", &["cat", "--", "echo", "end"]);
    config.stdin = true;
    config.stdin_once = true;
    let id = node.run(&sandbox, config).await;
    let request = v1::AttachRequest { container_id: id.clone(), stdin: true, tty: false, stdout: true, stderr: true };
    let url = node.runtime.attach(request).await.expect("attach").url;
    let mut client = open(&url, "v5.channel.k8s.io").await.expect("upgrade");
    client.send(0, b"hello\n").await;
    client.until("hello\n").await;
    client.send(255, &[0]).await;
    assert_eq!(client.outcome().await["status"], "Success");
    assert_eq!(client.stdout, b"hello\nend\n");
    let status = node.wait_exit(&id).await;
    assert_eq!(status.exit_code, 0);
    let log = std::fs::read_to_string(status.log_path).expect("log");
    assert_eq!(support::texts(&log), ["hello", "end"]);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_has_said_all_leaves_an_open_input() {
    let node = Node::start().await;
    let sandbox = node.sandbox("attach-open").await;
    let mut config = container("c", &["cat"]);
    config.stdin = true;
    let id = node.run(&sandbox, config).await;
    for text in ["one\n", "two\n"] {
        let request = v1::AttachRequest { container_id: id.clone(), stdin: true, tty: false, stdout: true, stderr: true };
        let url = node.runtime.attach(request).await.expect("attach").url;
        let mut client = open(&url, "v5.channel.k8s.io").await.expect("upgrade");
        client.send(0, text.as_bytes()).await;
        client.until(text).await;
        client.send(255, &[0]).await;
        assert_eq!(client.outcome().await["status"], "Success");
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attach_to_a_terminal() {
    let node = Node::start().await;
    let sandbox = node.sandbox("attach-tty").await;
    let mut config = container("c", &["terminal"]);
    config.stdin = true;
    config.tty = true;
    let id = node.run(&sandbox, config).await;
    let request = v1::AttachRequest { container_id: id.clone(), stdin: true, tty: true, stdout: true, stderr: false };
    let url = node.runtime.attach(request).await.expect("attach").url;
    let mut client = open(&url, "v5.channel.k8s.io").await.expect("upgrade");
    client.send(4, br#"{"Width":99,"Height":11}"#).await;
    client.send(0, b"size\n").await;
    client.until("99x11").await;
    client.send(0, b"quit\n").await;
    client.outcome().await;
    assert_eq!(node.wait_exit(&id).await.exit_code, 0);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_url_works_once() {
    let node = Node::start().await;
    let sandbox = node.sandbox("once").await;
    let id = node.run(&sandbox, container("c", &["sleep"])).await;
    let request =
        v1::ExecRequest { container_id: id, cmd: words(&["rusternetes", "exit", "0"]), stdout: true, ..Default::default() };
    let url = node.runtime.exec(request).await.expect("exec").url;
    assert!(open(&url, "v6.channel.k8s.io").await.is_err_and(|line| line.contains("400")));
    let mut client = open(&url, "v5.channel.k8s.io").await.expect("upgrade");
    assert_eq!(client.outcome().await["status"], "Success");
    assert!(open(&url, "v5.channel.k8s.io").await.is_err_and(|line| line.contains("404")));
    node.stop().await;
}

/// A frame of a SPDY client: control frames have a type.
fn spdy_stream(id: u32, headers: &[(&str, &str)], first: bool) -> Vec<u8> {
    let mut plain = (headers.len() as u32).to_be_bytes().to_vec();
    for text in headers.iter().flat_map(|(name, value)| [name, value]) {
        plain.extend_from_slice(&(text.len() as u32).to_be_bytes());
        plain.extend_from_slice(text.as_bytes());
    }
    // A zlib stream of stored blocks, which needs no dictionary.
    let mut block = if first { vec![0x78, 0x01] } else { Vec::new() };
    let length = plain.len() as u16;
    block.push(0);
    block.extend_from_slice(&length.to_le_bytes());
    block.extend_from_slice(&(!length).to_le_bytes());
    block.extend_from_slice(&plain);
    let mut frame = vec![0x80, 3, 0, 1, 0];
    frame.extend_from_slice(&(10 + block.len() as u32).to_be_bytes()[1..]);
    frame.extend_from_slice(&id.to_be_bytes());
    frame.extend_from_slice(&[0; 6]);
    frame.extend_from_slice(&block);
    frame
}

fn spdy_data(id: u32, bytes: &[u8], fin: bool) -> Vec<u8> {
    let length = (bytes.len() as u32).to_be_bytes();
    [&id.to_be_bytes()[..], &[u8::from(fin)], &length[1..], bytes].concat()
}

/// Collects the data of each stream until all have ended.
async fn spdy_collect(stream: &mut TcpStream, mut open: usize) -> std::collections::BTreeMap<u32, Vec<u8>> {
    let mut data: std::collections::BTreeMap<u32, Vec<u8>> = Default::default();
    while open > 0 {
        let mut head = [0; 8];
        tokio::time::timeout(DEADLINE, stream.read_exact(&mut head)).await.expect("frame").expect("head");
        let mut payload = vec![0; u32::from_be_bytes([0, head[5], head[6], head[7]]) as usize];
        stream.read_exact(&mut payload).await.expect("payload");
        let first = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
        match (first >> 31, first & 0xffff) {
            (0, _) => {
                data.entry(first).or_default().extend_from_slice(&payload);
                open -= usize::from(head[4] & 1);
            }
            // A reset ends a stream too.
            (_, 3) => open -= 1,
            _ => {}
        }
    }
    data
}

async fn spdy(url: &str) -> TcpStream {
    let (address, path) = url.strip_prefix("http://").and_then(|rest| rest.split_once('/')).expect("url");
    let mut stream = TcpStream::connect(address).await.expect("connect");
    let request = format!(
        "POST /{path} HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nContent-Length: 0\r\n\
         X-Stream-Protocol-Version: portforward.k8s.io\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.expect("request");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.expect("response"));
    }
    assert!(head.starts_with(b"HTTP/1.1 101"), "{}", String::from_utf8_lossy(&head));
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn ports_of_a_sandbox_are_forwarded() {
    let node = Node::start().await;
    let sandbox = node.sandbox("forward").await;
    let id = node.run(&sandbox, container("c", &["upper-server", "8080"])).await;
    let log = node.status(&id).await.log_path;
    support::eventually("listening", || std::fs::read_to_string(&log).is_ok_and(|log| log.contains("listening"))).await;
    let request = v1::PortForwardRequest { pod_sandbox_id: sandbox.0.clone(), port: vec![8080] };
    let mut stream = spdy(&node.runtime.port_forward(request).await.expect("url").url).await;
    let headers = |kind, port, request| [("streamtype", kind), ("port", port), ("requestid", request)];
    let frames = [
        spdy_stream(1, &headers("error", "8080", "0"), true),
        spdy_data(1, b"", true),
        spdy_stream(3, &headers("data", "8080", "0"), false),
        spdy_data(3, b"some text", true),
        spdy_stream(5, &headers("error", "81", "1"), false),
        spdy_data(5, b"", true),
        spdy_stream(7, &headers("data", "81", "1"), false),
    ];
    stream.write_all(&frames.concat()).await.expect("frames");
    let data = spdy_collect(&mut stream, 4).await;
    assert_eq!(data[&3], b"SOME TEXT");
    assert_eq!(data[&1], b"");
    assert!(String::from_utf8_lossy(&data[&5]).contains("onnection refused"), "{data:?}");
    node.stop().await;
}
