//! The DNS server over real sockets, in a network namespace of its own (needs root): port 53 is ours there, and so are the
//! "host's resolvers". The API is a few lists served in process.

#![allow(clippy::unwrap_used)]

use std::convert::Infallible;
use std::io::{Read, Write};
use std::net::{TcpStream, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use client::Informers;
use dns::{Config, Error};
use hickory_proto::op::{Edns, Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use kube::client::Body;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

const SERVER: &str = "127.0.0.10:53";

/// Answers lists; streamed lists are refused, as an older server would, and watches stay silent.
fn api() -> kube::Client {
    let service = tower::service_fn(|request: Request<Body>| async move {
        let query = request.uri().query().unwrap_or_default();
        if query.contains("sendInitialEvents=true") {
            let body = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 422, "reason": "Invalid", "message": "no"});
            return Ok::<_, Infallible>(response(StatusCode::UNPROCESSABLE_ENTITY, &body));
        }
        if query.contains("watch=true") {
            std::future::pending::<()>().await;
        }
        let (kind, version, items) = match request.uri().path() {
            "/api/v1/services" => ("ServiceList", "v1", services()),
            _ => ("EndpointSliceList", "discovery.k8s.io/v1", slices()),
        };
        let list = json!({"kind": kind, "apiVersion": version, "metadata": {"resourceVersion": "7"}, "items": items});
        Ok(response(StatusCode::OK, &list))
    });
    client::from_service(service, "default")
}

fn response(status: StatusCode, body: &Value) -> Response<Full<bytes::Bytes>> {
    let body = Full::new(bytes::Bytes::from(body.to_string()));
    Response::builder().status(status).header("Content-Type", "application/json").body(body).unwrap()
}

fn metadata(name: &str) -> Value {
    json!({"namespace": "default", "name": name, "uid": name, "resourceVersion": "1",
        "labels": {"kubernetes.io/service-name": "many"}})
}

fn services() -> Value {
    json!([
        {"metadata": metadata("web"), "spec": {"clusterIP": "10.43.0.80", "ports": [{"name": "http", "port": 80}]}},
        {"metadata": metadata("many"), "spec": {"clusterIP": "None"}},
        {"metadata": metadata("few"), "spec": {"clusterIP": "None"}},
        {"metadata": metadata("empty"), "spec": {"clusterIP": "None"}},
        {"metadata": metadata("out"), "spec": {"type": "ExternalName", "externalName": "www.example.org"}},
        {"metadata": metadata("alias"),
            "spec": {"type": "ExternalName", "externalName": "web.default.svc.cluster.local"}},
    ])
}

fn slices() -> Value {
    let endpoints: Vec<Value> = (1..=90).map(|n| json!({"addresses": [format!("10.42.0.{n}")]})).collect();
    let mut few = metadata("few-1");
    few["labels"]["kubernetes.io/service-name"] = "few".into();
    json!([
        {"metadata": metadata("many-1"), "addressType": "IPv4", "endpoints": endpoints, "ports": []},
        {"metadata": few, "addressType": "IPv4", "ports": [], "endpoints": [{"addresses": ["10.43.1.1"]}, {"addresses": ["10.43.1.2"]}]},
    ])
}

/// Runs the test beside a server, in a namespace with loopback alone. `resolvers` is the host's resolv.conf.
fn with_server(resolvers: &'static str, test: impl FnOnce() + Send + 'static) {
    let thread = thread::spawn(move || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("this test needs root");
        assert!(Command::new("ip").args(["link", "set", "lo", "up"]).status().unwrap().success());
        let dir = tempfile::tempdir().unwrap();
        let resolv_conf = dir.path().join("resolv.conf");
        std::fs::write(&resolv_conf, resolvers).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let token = CancellationToken::new();
            let informers = Informers::new(api(), token.clone());
            let server = dns::run(config(&resolv_conf), informers, token.clone());
            let test = tokio::task::spawn_blocking(test);
            let finished = async {
                let result = test.await;
                token.cancel();
                result
            };
            let (served, tested) = tokio::join!(server, finished);
            if let Err(panic) = tested {
                std::panic::resume_unwind(panic.into_panic());
            }
            served.unwrap();
        });
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn config(resolv_conf: &Path) -> Config {
    Config {
        addresses: vec![SERVER.parse().unwrap()],
        cluster_domain: "cluster.local".into(),
        service_ips: vec!["10.43.0.10".parse().unwrap()],
        resolv_conf: resolv_conf.to_owned(),
    }
}

fn question(name: &str, query_type: RecordType, payload: Option<u16>) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), query_type));
    if let Some(payload) = payload {
        let mut edns = Edns::new();
        edns.set_max_payload(payload);
        message.set_edns(edns);
    }
    message
}

/// Asks by UDP, again and again until the server is up.
fn udp(message: &Message) -> (Message, usize) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut buf = [0; 8192];
    loop {
        socket.send_to(&message.to_vec().unwrap(), SERVER).unwrap();
        match socket.recv(&mut buf) {
            Ok(len) => return (Message::from_vec(&buf[..len]).unwrap(), len),
            Err(error) => assert!(Instant::now() < deadline, "no answer: {error}"),
        }
    }
}

fn tcp(message: &Message) -> Message {
    let mut stream = TcpStream::connect(SERVER).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let bytes = message.to_vec().unwrap();
    stream.write_all(&(bytes.len() as u16).to_be_bytes()).unwrap();
    stream.write_all(&bytes).unwrap();
    let mut len = [0; 2];
    stream.read_exact(&mut len).unwrap();
    let mut answer = vec![0; usize::from(u16::from_be_bytes(len))];
    stream.read_exact(&mut answer).unwrap();
    Message::from_vec(&answer).unwrap()
}

fn data(records: &[Record]) -> Vec<String> {
    records.iter().map(|record| record.data.to_string()).collect()
}

fn ask(name: &str, query_type: RecordType) -> Message {
    udp(&question(name, query_type, None)).0
}

#[test]
fn cluster_names_are_answered_without_any_network() {
    with_server("", || {
        let answer = ask("WeB.default.svc.cluster.local.", RecordType::A);
        assert_eq!(answer.metadata.response_code, ResponseCode::NoError);
        assert!(answer.metadata.authoritative && answer.metadata.recursion_available);
        assert_eq!(data(&answer.answers), ["10.43.0.80"]);
        assert_eq!(answer.answers[0].ttl, 5);
        // 0x20: upper and lower case come back as they were asked.
        assert_eq!(answer.queries[0].name().to_string(), "WeB.default.svc.cluster.local.");
        assert_eq!(answer.answers[0].name.to_string(), "WeB.default.svc.cluster.local.");

        let nothing = ask("web.default.svc.cluster.local.", RecordType::AAAA);
        assert_eq!(nothing.metadata.response_code, ResponseCode::NoError);
        assert!(nothing.answers.is_empty());
        assert!(matches!(nothing.authorities[0].data, RData::SOA(_)));

        let missing = ask("web.default.svc.cluster.local.default.svc.cluster.local.", RecordType::A);
        assert_eq!(missing.metadata.response_code, ResponseCode::NXDomain);
        assert!(matches!(missing.authorities[0].data, RData::SOA(_)));

        let alias = ask("alias.default.svc.cluster.local.", RecordType::A);
        assert_eq!(data(&alias.answers), ["web.default.svc.cluster.local.", "10.43.0.80"]);

        // There is nobody to ask.
        assert_eq!(ask("www.example.org.", RecordType::A).metadata.response_code, ResponseCode::ServFail);
        let alias = ask("out.default.svc.cluster.local.", RecordType::A);
        assert_eq!(
            (alias.metadata.response_code, data(&alias.answers)),
            (ResponseCode::NoError, vec!["www.example.org.".into()])
        );
    });
}

/// What must be the same however a question came; several addresses come in any order.
fn essence(message: &Message) -> String {
    let records = |records: &[Record]| {
        let mut lines: Vec<String> = records.iter().map(|record| format!("{record:?}")).collect();
        lines.sort();
        lines
    };
    // Upper and lower case of what was not asked for does not matter.
    let authorities: Vec<String> = records(&message.authorities).iter().map(|line| line.to_lowercase()).collect();
    let parts = [records(&message.answers), authorities, records(&message.additionals)];
    format!("{:?} {:?} {:?} {parts:?}", message.metadata, message.queries, message.edns)
}

#[test]
fn prepared_answers_are_those_of_the_zone() {
    with_server("", || {
        let names = [
            "web.default.svc.cluster.local.",
            "WEB.deFault.SVC.cluster.LOCAL.",
            "few.default.svc.cluster.local.",
            "empty.default.svc.cluster.local.",
            "nothing.default.svc.cluster.local.",
            "web.nowhere.svc.cluster.local.",
            "web.default.default.svc.cluster.local.",
            "10-43-1-1.few.default.svc.cluster.local.",
            "x.few.default.svc.cluster.local.",
            "_http._tcp.web.default.svc.cluster.local.",
            "a.b.c.d.e.f.g.h.default.svc.cluster.local.",
            "default.svc.cluster.local.",
            "svc.cluster.local.",
            "cluster.local.",
            "alias.default.svc.cluster.local.",
            "10-42-0-9.default.pod.cluster.local.",
        ];
        for name in names {
            for query_type in [RecordType::A, RecordType::AAAA, RecordType::SRV, RecordType::ANY] {
                for payload in [None, Some(100), Some(4096)] {
                    let mut message = question(name, query_type, payload);
                    message.metadata.recursion_desired = payload.is_some();
                    message.metadata.checking_disabled = payload.is_none();
                    let (datagram, _) = udp(&message);
                    assert_eq!(essence(&datagram), essence(&tcp(&message)), "{name} {query_type} {payload:?}");
                }
            }
        }
    });
}

#[test]
fn what_is_no_question_is_refused_or_ignored() {
    with_server("", || {
        let valid = question("web.default.svc.cluster.local.", RecordType::A, None);
        let (answer, _) = udp(&valid);
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let mut buf = [0; 1500];
        // Nobody answers these, so that the next answer is the last one's.
        socket.send_to(&[], SERVER).unwrap();
        socket.send_to(&valid.to_vec().unwrap()[..11], SERVER).unwrap();
        socket.send_to(&answer.to_vec().unwrap(), SERVER).unwrap();
        // The name is cut short.
        let mut broken = valid.to_vec().unwrap()[..20].to_vec();
        broken[..2].copy_from_slice(&[0xab, 0xcd]);
        socket.send_to(&broken, SERVER).unwrap();
        let length = socket.recv(&mut buf).unwrap();
        let refused = Message::from_vec(&buf[..length]).unwrap();
        assert_eq!((refused.metadata.id, refused.metadata.response_code), (0xabcd, ResponseCode::FormErr));
        // Two at once are answered one by one.
        for id in [1u16, 2] {
            let mut message = valid.to_vec().unwrap();
            message[..2].copy_from_slice(&id.to_be_bytes());
            socket.send_to(&message, SERVER).unwrap();
        }
        let mut ids: Vec<u16> = (0..2)
            .map(|_| {
                let length = socket.recv(&mut buf).unwrap();
                Message::from_vec(&buf[..length]).unwrap().metadata.id
            })
            .collect();
        ids.sort_unstable();
        assert_eq!(ids, [1, 2]);
    });
}

#[test]
fn large_answers_are_truncated_and_come_whole_by_tcp() {
    with_server("", || {
        let message = question("many.default.svc.cluster.local.", RecordType::A, None);
        let (short, len) = udp(&message);
        assert!(short.metadata.truncation && len <= 512, "{len} bytes");
        let (longer, len) = udp(&question("many.default.svc.cluster.local.", RecordType::A, Some(4096)));
        assert!(longer.metadata.truncation && len > 512 && len <= 1232, "{len} bytes");
        assert!(longer.edns.is_some(), "EDNS is answered with EDNS");
        let whole = tcp(&message);
        assert!(!whole.metadata.truncation);
        assert_eq!(whole.answers.len(), 90);
    });
}

#[test]
fn other_names_are_asked_of_the_hosts_resolvers() {
    with_server("nameserver 127.0.0.10\nnameserver 127.0.0.53\n", || {
        let upstream = UdpSocket::bind("127.0.0.53:53").unwrap();
        thread::spawn(move || {
            let mut buf = [0; 1024];
            while let Ok((len, peer)) = upstream.recv_from(&mut buf) {
                let mut answer = Message::from_vec(&buf[..len]).unwrap().into_response();
                let name = answer.queries[0].name().clone();
                if name.to_string().contains("missing") {
                    answer.metadata.response_code = ResponseCode::NXDomain;
                } else {
                    answer.add_answer(Record::from_rdata(name, 60, RData::A("192.0.2.80".parse().unwrap())));
                }
                let _ = upstream.send_to(&answer.to_vec().unwrap(), peer);
            }
        });
        let answer = ask("www.example.org.", RecordType::A);
        assert_eq!(data(&answer.answers), ["192.0.2.80"]);
        assert!(!answer.metadata.authoritative);
        let alias = ask("out.default.svc.cluster.local.", RecordType::A);
        assert_eq!(data(&alias.answers), ["www.example.org.", "192.0.2.80"]);
        assert_eq!(ask("missing.example.org.", RecordType::A).metadata.response_code, ResponseCode::NXDomain);
        // The cluster's own names are never asked of anybody else.
        assert_eq!(ask("x.cluster.local.", RecordType::A).metadata.response_code, ResponseCode::NXDomain);
    });
}

#[test]
fn a_taken_port_and_a_wrong_domain_are_clear_errors() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let token = CancellationToken::new();
        let informers = Informers::new(api(), token.clone());
        let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let mut wanted = Config { addresses: vec![address], ..config(Path::new("/nonexistent")) };
        let error = dns::run(wanted.clone(), informers.clone(), token.clone()).await.unwrap_err();
        assert_eq!(error.to_string(), format!("cannot listen on {address} (udp) for DNS"));
        wanted.cluster_domain = String::new();
        assert!(matches!(dns::run(wanted, informers, token).await.unwrap_err(), Error::Domain(_)));
    });
}
