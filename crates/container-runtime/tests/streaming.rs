//! Exec and attach by URL, over WebSocket. Needs root.

#![allow(missing_docs)]

mod support;

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
        let Message::Binary(bytes) = message else { panic!("unexpected {message:?}") };
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
    assert!(open(&url, "base64.channel.k8s.io").await.is_err_and(|line| line.contains("400")));
    let mut client = open(&url, "v5.channel.k8s.io").await.expect("upgrade");
    assert_eq!(client.outcome().await["status"], "Success");
    assert!(open(&url, "v5.channel.k8s.io").await.is_err_and(|line| line.contains("404")));
    node.stop().await;
}
