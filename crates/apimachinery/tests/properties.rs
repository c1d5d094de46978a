//! Laws that hold for all input: what is written reads back, canonical forms are stable, hostile input never panics.

use apimachinery::decode::{Format, decode};
use apimachinery::selector::{FieldSelector, LabelSelector};
use apimachinery::{GroupVersionKind, Map, Quantity, Value, protobuf, schema, time, validation, yaml};
use proptest::prelude::*;

fn scalar() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        // Floats with a fraction: those without one are integers in YAML.
        (any::<i32>(), 1u8..100).prop_map(|(whole, part)| Value::from(f64::from(whole) + f64::from(part) / 128.0)),
        any::<String>().prop_map(Value::from),
        "[ -~\n]{0,12}".prop_map(Value::from),
        "(yes|no|on|null|~|0x1F|1e3|1_0|2020-01-01|- |: |#|'|\")[a-z: #\n]{0,3}".prop_map(Value::from),
    ]
}

fn tree() -> impl Strategy<Value = Value> {
    scalar().prop_recursive(4, 64, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::vec(("[ -~]{0,8}", inner), 0..6)
                .prop_map(|members| Value::from(members.into_iter().collect::<Map>())),
        ]
    })
}

fn has_float(value: &Value) -> bool {
    match value {
        Value::Float(_) => true,
        Value::Array(items) => items.iter().any(has_float),
        Value::Object(members) => members.iter().any(|(_, member)| has_float(member)),
        _ => false,
    }
}

proptest! {
    #[test]
    fn json_reads_back(value in tree()) {
        prop_assert_eq!(Value::from_slice(&value.to_vec()), Ok(value));
    }

    #[test]
    fn yaml_reads_back(value in tree()) {
        let text = yaml::to_yaml(&value);
        let back = yaml::parse_one(text.as_bytes()).map(|document| document.value);
        prop_assert_eq!(back, Ok(value), "{}", text);
    }

    #[test]
    fn typed_conversion_keeps_trees(value in tree()) {
        prop_assert_eq!(Value::from_typed(&value), Ok(value.clone()));
        // Floats may come back as a neighbour.
        prop_assume!(!has_float(&value));
        prop_assert_eq!(value.to_typed::<Value>(), Ok(value));
    }

    #[test]
    fn canonical_quantities_are_stable(text in "[+-]?[0-9]{1,12}(\\.[0-9]{0,6})?(n|u|m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|e[0-9]|)") {
        let quantity = Quantity::parse(&text).expect("well formed");
        let printed = quantity.to_string();
        let again = Quantity::parse(&printed).expect("what is printed parses");
        prop_assert_eq!(again, quantity, "{} {}", text, printed);
        prop_assert_eq!(again.to_string(), printed);
        let kept = Quantity::canonicalize(&text).expect("well formed");
        prop_assert_eq!(Quantity::parse(&kept), Ok(quantity));
    }

    #[test]
    fn durations_read_back(nanoseconds in any::<i64>().prop_filter("the most negative one has no opposite", |n| *n != i64::MIN)) {
        prop_assert_eq!(time::parse_duration(&time::format_duration(nanoseconds)), Ok(nanoseconds));
    }

    #[test]
    fn selectors_print_what_they_parse(text in "[a-c!=<> (),n]{0,20}|[a-c] (in|notin) \\([a-c,]{0,6}\\)") {
        if let Ok(selector) = LabelSelector::parse(&text) {
            prop_assert_eq!(LabelSelector::parse(&selector.to_string()), Ok(selector));
        }
        if let Ok(selector) = FieldSelector::parse(&text) {
            // Terms are sorted as they are written, and `==` is written `=`: the order may change, once.
            let terms = |selector: &FieldSelector| {
                let mut terms: Vec<String> = selector.requirements().iter().map(|term| format!("{term:?}")).collect();
                terms.sort_unstable();
                terms
            };
            let again = FieldSelector::parse(&selector.to_string()).expect("what it printed");
            prop_assert_eq!(terms(&again), terms(&selector));
            let twice = again.to_string();
            prop_assert_eq!(FieldSelector::parse(&twice).expect("what it printed").to_string(), twice);
        }
    }

    #[test]
    fn no_bytes_make_a_parser_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), text in any::<String>()) {
        let pod = GroupVersionKind::new("", "v1", "Pod");
        let info = schema::lookup(&pod).expect("known");
        let _ = decode(&bytes, Format::Json, info);
        let _ = decode(&bytes, Format::Yaml, info);
        let _ = decode(text.as_bytes(), Format::Yaml, info);
        let _ = protobuf::decode_message(&bytes, info);
        let _ = protobuf::decode(&[protobuf::MAGIC, bytes.as_slice()].concat(), &pod);
        let _ = Quantity::canonicalize(&text);
        let _ = (time::parse_time(&text), time::parse_micro_time(&text), time::parse_duration(&text));
        let _ = (LabelSelector::parse(&text), FieldSelector::parse(&text));
        let _ = (validation::is_qualified_name(&text), validation::name_is_dns_label(&text, true), validation::is_env_var_name(&text));
    }

    /// Trees that are almost pods: wrong types, unknown fields and nulls in all places.
    #[test]
    fn conforming_is_idempotent(spec in tree(), containers in prop::collection::vec(tree(), 0..3)) {
        let info = schema::lookup(&GroupVersionKind::new("", "v1", "Pod")).expect("known");
        let pods = [
            apimachinery::value!({"spec": spec}),
            apimachinery::value!({"spec": {"containers": containers}, "metadata": {"labels": {"a": null}}}),
        ];
        for pod in pods {
            if let Ok(decoded) = decode(&pod.to_vec(), Format::Json, info) {
                let again = decode(&decoded.object.to_vec(), Format::Json, info).expect("conforms already");
                prop_assert_eq!(&again.object, &decoded.object);
                prop_assert!(again.strict.is_empty());
                let message = protobuf::encode_message(&decoded.object, info);
                // An empty list and no list are the same in protobuf, in upstream's too.
                let back = protobuf::decode_message(&message, info).expect("what is written reads");
                prop_assert_eq!(protobuf::encode_message(&back, info), message);
            }
        }
    }
}
