//! Batches against a real kernel, each test in a network namespace of its own (needs root).

#![allow(clippy::unwrap_used)]

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::process::Command;
use std::time::Duration;

use nftables::{
    BaseChain, Batch, ChainType, Cmp, Connection, CtKey, Element, Error, Expr, Family, FibResult, Hook, Key, KeyField, MetaKey,
    Nat, Payload, Reg, RejectKind, Rule, Set, Table, Verdict, conntrack,
};
use nix::sched::{CloneFlags, unshare};

/// Runs a test on a thread with its own network namespace, loopback up.
fn in_namespace(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("these tests need root");
        let up = Command::new("ip").args(["link", "set", "lo", "up"]).status().expect("ip is installed");
        assert!(up.success());
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn table() -> Table {
    Table::new(Family::Ipv4, "test")
}

/// The ruleset as the nft program prints it, where it is installed.
fn nft_listing() -> Option<String> {
    let output = match Command::new("nft").args(["-n", "list", "ruleset"]).output() {
        Ok(output) => output,
        Err(_) => {
            eprintln!("SKIPPED: nft is not installed, its listing is not compared");
            return None;
        }
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).unwrap())
}

const FRONTEND: [KeyField; 3] = [KeyField::Ipv4, KeyField::Protocol, KeyField::Port];

fn frontend(address: [u8; 4], port: u16) -> Key {
    Key::new().ip(IpAddr::from(address)).protocol(17).port(port)
}

fn load_frontend(rule: Rule) -> Rule {
    rule.load(Payload::Ipv4Destination, Reg(0)).meta(MetaKey::Layer4Protocol, Reg(1)).load(Payload::DestinationPort, Reg(2))
}

/// Every kind of object and expression at once.
fn everything() -> Batch {
    let mut batch = Batch::new(&table());
    batch.add_table();
    batch.add_set(&Set::verdict_map("services", &FRONTEND));
    let slots = [FRONTEND.as_slice(), &[KeyField::Number]].concat();
    batch.add_set(&Set::map("endpoints", &slots, &[KeyField::Ipv4, KeyField::Port]));
    batch.add_set(&Set::new("affinity", &[KeyField::Ipv4]).dynamic(1000));
    batch.add_set(&Set::new("local", &[KeyField::Ipv4]));
    let nat = |hook, priority| Some(BaseChain { kind: ChainType::Nat, hook, priority });
    batch.add_chain("output", nat(Hook::Output, -100));
    batch.add_chain("postrouting", nat(Hook::Postrouting, 100));
    batch.add_chain("filter", Some(BaseChain { kind: ChainType::Filter, hook: Hook::Output, priority: 0 }));
    batch.add_chain("pick", None);
    batch.add_rule("output", &load_frontend(Rule::new()).expr(Expr::VerdictLookup { map: "services".into(), key: Reg(0) }));
    batch.add_rule("output", &Rule::new().is_local(FibResult::DestinationType).expr(Expr::Counter).comment("local"));
    batch.add_rule(
        "pick",
        &load_frontend(Rule::new().set_mark_bits(0x4000, true))
            .expr(Expr::Random { modulus: 2, into: Reg(3) })
            .expr(Expr::MapLookup { map: "endpoints".into(), key: Reg(0), value: Reg(8) })
            .load(Payload::Ipv4Source, Reg(0))
            .expr(Expr::Update { set: "affinity".into(), key: Reg(0), value: None, timeout: Duration::from_secs(10) })
            .expr(Expr::Nat { kind: Nat::Destination, family: Family::Ipv4, address: Reg(8), port: Some(Reg(9)) }),
    );
    batch.add_rule(
        "postrouting",
        &Rule::new().mark_any(0x4000).set_mark_bits(0x4000, false).expr(Expr::Masquerade { fully_random: true }),
    );
    batch.add_rule(
        "filter",
        &Rule::new()
            .ct_any(CtKey::State, 8)
            .interface_is(MetaKey::OutputInterface, Cmp::Ne, "lo")
            .field_in_prefix(Payload::Ipv4Destination, Cmp::Eq, IpAddr::from([10, 99, 0, 0]), 16)
            .expr(Expr::Reject(RejectKind::PortUnreachable)),
    );
    batch.add_rule("filter", &Rule::new().protocol_is(6).ct_none(CtKey::Status, 48).verdict(Verdict::Return));
    batch.add_elements("services", &[Element::verdict(frontend([10, 43, 0, 1], 53), Verdict::goto("pick"))]);
    batch.add_elements("endpoints", &endpoints(&[5301, 5302]));
    batch.add_elements("local", &[Element::key(Key::new().ip(IpAddr::from([192, 0, 2, 1])))]);
    batch
}

fn endpoints(ports: &[u16]) -> Vec<Element> {
    let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let element = |(index, port): (usize, &u16)| {
        Element::value(frontend([10, 43, 0, 1], 53).number(index as u32), Key::new().ip(address).port(*port))
    };
    ports.iter().enumerate().map(element).collect()
}

#[test]
fn what_is_written_is_read_back() {
    in_namespace(|| {
        let mut connection = Connection::open().unwrap();
        connection.commit(&everything()).unwrap();

        assert_eq!(connection.tables(Family::Ipv4).unwrap(), ["test"]);
        assert_eq!(connection.chains(&table()).unwrap(), ["output", "postrouting", "filter", "pick"]);
        let mut sets = connection.sets(&table()).unwrap();
        sets.sort();
        assert_eq!(sets, ["affinity", "endpoints", "local", "services"]);
        let rules = connection.rules(&table(), Some("output")).unwrap();
        assert_eq!(rules[0].exprs, ["payload", "meta", "payload", "lookup"]);
        assert_eq!(rules[1].exprs, ["fib", "cmp", "counter"]);
        assert_eq!(rules[1].comment.as_deref(), Some("local"));
        let services = connection.elements(&table(), "services").unwrap();
        assert_eq!(services.len(), 1);
        assert_eq!(services[0].key, frontend([10, 43, 0, 1], 53).as_bytes());
        assert_eq!(services[0].verdict, Some(Verdict::goto("pick")));

        let Some(listing) = nft_listing() else { return };
        for expected in [
            "ip daddr . meta l4proto . th dport vmap @services",
            "10.43.0.1 . 17 . 53 : goto pick",
            "fib daddr type 2 counter",
            "dnat ip to ip daddr . meta l4proto . th dport . numgen random mod 2 map @endpoints",
            "update @affinity { ip saddr timeout 10s }",
            "masquerade fully-random",
            "ip daddr 10.99.0.0/16",
            "oifname != \"lo\"",
            "comment \"local\"",
            "elements = { 192.0.2.1 }",
            "type ipv4_addr . inet_proto . inet_service . mark : ipv4_addr . inet_service",
        ] {
            assert!(listing.contains(expected), "{expected:?} is missing in\n{listing}");
        }
    });
}

#[test]
fn a_batch_is_applied_whole_or_not_at_all() {
    in_namespace(|| {
        let mut connection = Connection::open().unwrap();
        connection.commit(&everything()).unwrap();

        let mut batch = Batch::new(&table());
        batch.add_elements("local", &[Element::key(Key::new().ip(IpAddr::from([192, 0, 2, 2])))]);
        batch.delete_elements("local", &[Element::key(Key::new().ip(IpAddr::from([192, 0, 2, 99])))]);
        batch.add_chain("never", None);
        let error = connection.commit(&batch).unwrap_err();
        assert!(error.is_not_found(), "{error:?}");
        assert!(matches!(&error, Error::Refused { object, .. } if object == "delete elements from ip test local"), "{error:?}");
        assert_eq!(connection.elements(&table(), "local").unwrap().len(), 1);
        assert!(!connection.chains(&table()).unwrap().contains(&"never".to_owned()));

        // A refusal at commit time: a chain that is still referred to cannot go.
        let mut batch = Batch::new(&table());
        batch.delete_chain("pick");
        assert_eq!(connection.commit(&batch).unwrap_err().errno(), Some(libc::EBUSY));
    });
}

#[test]
fn an_element_changes_its_value_in_one_batch() {
    in_namespace(|| {
        let mut connection = Connection::open().unwrap();
        connection.commit(&everything()).unwrap();
        let mut batch = Batch::new(&table());
        batch.delete_elements("endpoints", &endpoints(&[0, 0]));
        batch.add_elements("endpoints", &endpoints(&[9001]));
        connection.commit(&batch).unwrap();
        let found = connection.elements(&table(), "endpoints").unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].value, [127, 0, 0, 1, 0x23, 0x29, 0, 0]);
    });
}

#[test]
fn a_batch_of_megabytes_is_one_transaction() {
    in_namespace(|| {
        let mut connection = Connection::open().unwrap();
        let mut batch = everything();
        let keys = |range: std::ops::Range<u32>| -> Vec<Element> {
            range.map(|n| Element::verdict(frontend((0x0a60_0000 + n).to_be_bytes(), 80), Verdict::goto("pick"))).collect()
        };
        batch.add_elements("services", &keys(0..50_000));
        connection.commit(&batch).unwrap();
        assert_eq!(connection.elements(&table(), "services").unwrap().len(), 50_001);
        let mut batch = Batch::new(&table());
        batch.delete_table();
        connection.commit(&batch).unwrap();
        assert!(connection.tables(Family::Ipv4).unwrap().is_empty());
    });
}

#[test]
fn packets_follow_the_maps_and_flows_can_be_deleted() {
    in_namespace(|| {
        let mut connection = Connection::open().unwrap();
        let route = Command::new("ip").args(["route", "add", "default", "dev", "lo"]).status().unwrap();
        assert!(route.success());
        let server = |port| {
            let socket = UdpSocket::bind(("127.0.0.1", port)).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            socket
        };
        let (first, second) = (server(5301), server(5302));
        connection.commit(&everything()).unwrap();

        let mut batch = Batch::new(&table());
        batch.delete_elements("endpoints", &endpoints(&[0, 0]));
        batch.add_elements("endpoints", &endpoints(&[5301, 5301]));
        connection.commit(&batch).unwrap();
        let client = UdpSocket::bind("0.0.0.0:0").unwrap();
        client.send_to(b"one", "10.43.0.1:53").unwrap();
        let mut buf = [0; 16];
        assert_eq!(first.recv(&mut buf).unwrap(), 3);

        // The flow sticks to its endpoint until its entry is deleted.
        let mut batch = Batch::new(&table());
        batch.delete_elements("endpoints", &endpoints(&[0, 0]));
        batch.add_elements("endpoints", &endpoints(&[5302, 5302]));
        connection.commit(&batch).unwrap();
        client.send_to(b"four", "10.43.0.1:53").unwrap();
        assert_eq!(first.recv(&mut buf).unwrap(), 4);
        let flows = conntrack::list(&mut connection, Family::Ipv4, |flow| {
            flow.original.destination_port == 53 && flow.reply.source_port == 5301
        })
        .unwrap();
        assert_eq!(flows.len(), 1);
        conntrack::delete(&mut connection, &flows[0]).unwrap();
        conntrack::delete(&mut connection, &flows[0]).unwrap();
        client.send_to(b"seven", "10.43.0.1:53").unwrap();
        assert_eq!(second.recv(&mut buf).unwrap(), 5);
    });
}
