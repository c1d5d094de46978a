//! Values for a field: good ones, bad ones, and those at and past the usual limits.

use apimachinery::Value;
use apimachinery::schema::{Shape, TypeInfo, TypeKind};

use super::random::Random;

/// Structs inside of structs are made so deep.
const DEPTH_MAX: usize = 3;

const TEXTS: &[&str] = &[
    "",
    "a",
    "web",
    "web-1",
    "-web",
    "web-",
    "Web",
    "WEB",
    "web_1",
    "web.example.com",
    ".web",
    "web..com",
    "a/b",
    "/a/b",
    "a/../b",
    "example.com/a",
    "example.com/a/b",
    "https://example.com",
    "http://[::1",
    "10.0.0.1",
    "10.0.0.256",
    "010.0.0.1",
    "::1",
    "fe80::1",
    "10.0.0.0/8",
    "10.0.0.1/8",
    "10.0.0.0/33",
    "fd00::/64",
    "127.0.0.1",
    "0.0.0.0",
    "*",
    "*.example.com",
    "with space",
    "ümlaut",
    "a:b",
    "a=b",
    "$(VAR)",
    "{{",
    "0",
    "1",
    "-1",
    "65536",
    "true",
    "None",
    "Always",
    "default",
    "kubernetes.io/a",
    "storage.k8s.io/x",
    "metadata.name",
    "cpu",
    "memory",
    "nvidia.com/gpu",
    "requests.cpu",
    "1.2.3",
    "NET_ADMIN",
    "self.a == 1",
    "'a'",
    "2020-01-02T03:04:05Z",
    "a\nb",
    "AAEC",
];

const NUMBERS: &[i64] = &[
    -2_147_483_648,
    -2,
    -1,
    0,
    1,
    2,
    3,
    10,
    63,
    64,
    99,
    100,
    101,
    255,
    256,
    511,
    1000,
    1023,
    1024,
    3600,
    32_767,
    32_768,
    65_535,
    65_536,
    1_000_000_000,
    1_000_000_001,
    2_147_483_647,
];

const QUANTITIES: &[&str] = &[
    "0",
    "1",
    "-1",
    "100m",
    "1.5",
    "1Gi",
    "1G",
    "1e3",
    "0.0001",
    "10",
    "100",
    "abc",
    "",
    "1Ki ",
    "999999999999999999999",
    "1n",
    "64Mi",
];

/// A value of the right type, more often than not a valid one.
pub(super) fn any(shape: &'static Shape, depth: usize, random: &mut Random) -> Value {
    match shape {
        Shape::String(name) => match name.enum_values().map(Iterator::collect::<Vec<_>>) {
            Some(values) if random.percent(75) => (*random.pick(&values)).into(),
            _ => text(random),
        },
        Shape::Bool => random.percent(50).into(),
        Shape::Int32(_) => (*random.pick(NUMBERS)).into(),
        Shape::Int64(_) if random.weighted(&[(9, false), (1, true)]) => i64::MAX.into(),
        Shape::Int64(_) => (*random.pick(NUMBERS)).into(),
        Shape::Float => Value::from(0.5),
        Shape::Bytes => (*random.pick(&["", "AAEC", "c2VjcmV0", "no base64!", "YQ"])).into(),
        Shape::List(of) => (0..random.below(3)).map(|_| any(of, depth + 1, random)).collect(),
        Shape::Map(of) => {
            let mut map = Value::object();
            for _ in 0..random.below(3) {
                let key = text(random);
                map.insert(key.as_str().unwrap_or_default(), any(of, depth + 1, random));
            }
            map
        }
        Shape::Type(id) => of_type(id.info(), depth, random),
    }
}

fn text(random: &mut Random) -> Value {
    match random.below(20) {
        0 => "a".repeat(*random.pick(&[15, 16, 63, 64, 253, 254, 1024, 1025])).into(),
        _ => (*random.pick(TEXTS)).into(),
    }
}

fn of_type(info: &'static TypeInfo, depth: usize, random: &mut Random) -> Value {
    match info.kind {
        TypeKind::Struct => of_struct(info, depth, random),
        TypeKind::Quantity => match random.percent(10) {
            true => (*random.pick(&[0, 1, 1000])).into(),
            false => (*random.pick(QUANTITIES)).into(),
        },
        TypeKind::IntOrString => match random.percent(50) {
            true => (*random.pick(NUMBERS)).into(),
            false => (*random.pick(&["0%", "25%", "100%", "101%", "-1%", "http", "", "%", "5.5%", "abc", "a-b-c"])).into(),
        },
        TypeKind::Time => {
            (*random.pick(&["2020-01-02T03:04:05Z", "2020-01-02T03:04:05.5Z", "2020-01-02", "", "2020-01-02T03:04:05+02:00"]))
                .into()
        }
        TypeKind::MicroTime => (*random.pick(&["2020-01-02T03:04:05.000006Z", "2020-01-02T03:04:05Z", "nope"])).into(),
        TypeKind::Duration => (*random.pick(&["1s", "1h30m0s", "nope", "-1s"])).into(),
        _ => apimachinery::value!({"a": "b"}),
    }
}

fn of_struct(info: &'static TypeInfo, depth: usize, random: &mut Random) -> Value {
    let mut object = Value::object();
    let chance = if depth == 0 { 40 } else { 25 };
    for field in &info.fields {
        let wanted = if field.required() { random.percent(92) } else { random.percent(chance) };
        if wanted && (depth < DEPTH_MAX || field.required() && depth < 2 * DEPTH_MAX) {
            object.insert(field.name, any(field.shape, depth + 1, random));
        }
    }
    object
}

/// A value that the field cannot hold.
pub(super) fn wrong_type(shape: &Shape, random: &mut Random) -> Value {
    let mut choices =
        vec![Value::from("text"), 7.into(), true.into(), Value::object(), Value::array(), 1.5.into(), 12_345_678_901_i64.into()];
    let same: &[usize] = match shape {
        Shape::String(_) | Shape::Bytes => &[0],
        Shape::Bool => &[2],
        Shape::Int32(_) | Shape::Int64(_) => &[1],
        Shape::Float => &[1, 5, 6],
        Shape::List(_) => &[4],
        Shape::Map(_) => &[3],
        Shape::Type(_) => &[],
    };
    for at in same.iter().rev() {
        choices.remove(*at);
    }
    random.pick(&choices).clone()
}
