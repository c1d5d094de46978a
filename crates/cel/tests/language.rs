//! Expressions in the environment that all of Kubernetes' share: what they evaluate to, what is refused, what they cost.

use std::collections::HashMap;
use std::sync::Arc;

use apimachinery::Value;
use cel::{Budget, Env, EvalError, Program, Range, SizeEstimator, Type, Val, estimate};

fn env() -> Env {
    Env::base(cel::COMPATIBLE)
        .with_bindings()
        .with_variable("object", Type::Dyn)
        .with_variable("authorizer", Type::object("kubernetes.authorization.Authorizer"))
}

fn variables() -> HashMap<&'static str, Val> {
    let object = Value::from_slice(
        br#"{"name": "web", "replicas": 3, "ratio": 0.5, "labels": {"a": "b", "x/y": "z"}, "ports": [80, 443], "nothing": null,
            "items": [{"name": "i", "on": true}, {"name": "j"}]}"#,
    )
    .expect("an object");
    HashMap::from([("object", Val::from(&object))])
}

fn evaluate(expression: &str, cost_max: u64) -> (Result<Val, EvalError>, u64) {
    let ast = env().compile(expression).unwrap_or_else(|issues| panic!("{expression}\n{issues}"));
    Program::new(&ast).evaluate(&variables(), &Budget::cost(cost_max))
}

/// Every one of them is true.
fn hold(expressions: &[&str]) {
    for expression in expressions {
        let (value, _) = evaluate(expression, 1_000_000);
        assert!(matches!(value, Ok(Val::Bool(true))), "{expression}: {value:?}");
    }
}

/// Each fails with this message.
fn fail(cases: &[(&str, &str)]) {
    for (expression, expected) in cases {
        let (value, _) = evaluate(expression, 1_000_000);
        assert_eq!(value.err().map(|error| error.to_string()).as_deref(), Some(*expected), "{expression}");
    }
}

/// Each does not compile, for this reason at this column.
fn refuse(cases: &[(&str, &str)]) {
    for (expression, expected) in cases {
        let issues = env().compile(expression).expect_err(expression);
        let found: Vec<String> =
            issues.iter().map(|issue| format!("{}: {}", issue.offset.map_or(0, |at| at + 1), issue.message)).collect();
        assert_eq!(found, [*expected], "{expression}");
    }
}

#[test]
fn operators() {
    hold(&[
        "1 + 2 * 3 == 7 && 7 / 2 == 3 && -7 % 3 == -1 && 7u - 2u == 5u",
        "1.5 * 2.0 == 3.0 && dyn(1) == 1.0 && dyn(1u) == 1 && 2 > 1.5 && 3u < 3.5",
        "'a' + 'b' == 'ab' && b'a' + b'b' == b'ab' && [1] + [2] == [1, 2]",
        "'b' > 'a' && b'b' >= b'a' && true > false",
        "{'a': 1}.a == 1 && {'a': 1}['a'] == 1 && {1: 'x'}[dyn(1u)] == 'x'",
        "2 in [1, 2] && !('c' in {'a': 1}) && 'a' in {'a': 1}",
        "[[1], [2]] == [[1], [2]] && {'a': [1]} == {'a': [1]} && null == null",
        "(true || 1 / 0 > 0) && (1 / 0 > 0 || true) && !(false && 1 / 0 > 0)",
        "true ? true : 1 / 0 > 0",
        "type(1) == int && type('') == string && type([]) == list && type({}) == map && type(type(1)) == type",
        "size('äb') == 2 && b'\\xff'.size() == 1 && size([1]) == 1 && {'a': 1}.size() == 1",
    ]);
    fail(&[
        ("1 / 0 == 1", "division by zero"),
        ("1 % 0 == 1", "modulus by zero"),
        ("9223372036854775807 + 1 == 0", "integer overflow"),
        ("0u - 1u == 0u", "unsigned integer overflow"),
        ("[1][1] == 1", "index out of bounds: 1"),
        ("{'a': 1}['b'] == 1", "no such key: b"),
        ("object.missing == 1", "no such key: missing"),
        ("object.name + 1 == 1", "no such overload"),
        ("false || 1 / 0 > 0", "division by zero"),
        ("object.name && true", "no such overload"),
    ]);
}

#[test]
fn objects_of_the_api() {
    hold(&[
        "object.name == 'web' && object.replicas == 3 && object.ratio == 0.5 && object.nothing == null",
        "object.labels['x/y'] == 'z' && has(object.labels.a) && !has(object.labels.b) && has(object.nothing)",
        "object.ports.all(p, p > 0) && object.items.exists_one(i, has(i.on)) && object.items.map(i, i.name) == ['i', 'j']",
        "object.items.filter(i, !has(i.on)).size() == 1 && object.?missing.orValue(7) == 7",
        "object.?labels.?a.optMap(v, v + '!').value() == 'b!' && !object.?labels.?b.hasValue()",
        "object.labels.exists(k, k == 'a') && object.labels.all(k, v, v != '')",
    ]);
}

#[test]
fn comprehensions() {
    hold(&[
        "[1, 2, 3].exists(x, x > 2) && [0, 1].exists(x, 1 / x == 1) && ![0, 1].all(x, 1 / x == 5)",
        "[1, 2].map(x, x > 1, x * 10) == [20] && [1, 2].transformList(i, v, i + v) == [1, 3]",
        "{'a': 1}.transformMap(k, v, v + 1) == {'a': 2} && ['a'].transformMapEntry(i, v, {v: i}) == {'a': 0}",
        "{'a': 1, 'b': 2}.transformMap(k, v, k == 'b', v) == {'b': 2} && [1, 1].existsOne(i, v, i == 0)",
        "cel.bind(x, [1, 2], x + x) == [1, 2, 1, 2]",
        "[[1, 2], [3]].map(l, l.map(x, x * 2)) == [[2, 4], [6]]",
        "[3, 1, 2].sortBy(x, -x) == [3, 2, 1]",
        "optional.of(1).optFlatMap(x, optional.none()) == optional.none() && [?optional.none(), 1] == [1]",
    ]);
    fail(&[
        ("[0, 1].exists(x, 1 / x == 5)", "division by zero"),
        (
            "['a'].transformMapEntry(i, v, {'k': v}) == {} || ['a', 'b'].transformMapEntry(i, v, {'k': v}) == {}",
            "insert failed: key k already exists",
        ),
    ]);
}

#[test]
fn conversions_and_times() {
    hold(&[
        "int('12') == 12 && int(3.9) == 3 && uint(3) == 3u && double('1.5') == 1.5 && bool('true') && string(1.0) == '1'",
        "string(1e7) == '1e+07' && string(0.5) == '0.5' && string(b'ab') == 'ab' && string(duration('90s')) == '90s'",
        "int(timestamp('1970-01-01T00:01:00Z')) == 60 && string(timestamp(60)) == '1970-01-01T00:01:00Z'",
        "duration('1h') + duration('30m') == duration('90m') && duration('1h30m').getMinutes() == 90",
        "timestamp('2024-02-29T12:00:00Z') - duration('24h') == timestamp('2024-02-28T12:00:00Z')",
        "timestamp('2024-02-29T12:30:15.250Z').getMonth() == 1 && timestamp('2024-02-29T12:30:15.250Z').getMilliseconds() == 250",
        "timestamp('2024-02-29T23:00:00Z').getHours('Europe/Berlin') == 0 && timestamp('2024-02-29T23:00:00Z').getDate('+02:00') == 1",
        "timestamp('2024-03-03T00:00:00Z').getDayOfWeek() == 0 && timestamp('2024-01-01T00:00:00Z').getDayOfYear() == 0",
        "dyn(1) == 1 && type(dyn('a')) == string",
    ]);
    fail(&[
        ("int('x') == 1", "type conversion error from 'string' to 'int'"),
        ("int(1e30) == 1", "integer overflow"),
        ("timestamp(object.name) == timestamp(0)", "type conversion error from 'string' to 'google.protobuf.Timestamp'"),
    ]);
}

#[test]
fn strings_and_patterns() {
    hold(&[
        "'tacocat'.charAt(3) == 'o' && 'hello'.indexOf('l') == 2 && 'hello'.lastIndexOf('l') == 3 && 'ab'.indexOf('') == 0",
        "'äöü'.substring(1) == 'öü' && 'äöü'.substring(0, 2) == 'äö' && ' a '.trim() == 'a' && 'aB'.upperAscii() == 'AB'",
        "'a,b,c'.split(',') == ['a', 'b', 'c'] && 'a,b,c'.split(',', 2) == ['a', 'b,c'] && 'ab'.split('') == ['a', 'b']",
        "'abab'.replace('a', 'x', 1) == 'xbab' && ['a', 'b'].join('-') == 'a-b' && strings.quote('a\"') == '\"a\\\\\"\"'",
        "'abc'.matches('^[a-c]+$') && matches('x1', r'\\d') && 'abc 123'.find('[0-9]+') == '123'",
        "'a1b2'.findAll('[0-9]') == ['1', '2'] && 'a1b2'.findAll('[0-9]', 1) == ['1'] && !'é'.matches(r'\\w') && 'é'.matches(r'\\pL')",
        "'%s=%d %.2f %x %b %o'.format([dyn('a'), dyn(1), dyn(1.5), dyn(255), dyn(5), dyn(8)]) == 'a=1 1.50 ff 101 10'",
        "'%s'.format([[dyn(1), dyn('a'), dyn(null)]]) == '[1, \"a\", null]' && '%s'.format([{'b': 1, 'a': 2}]) == '{\"a\":2, \"b\":1}'",
    ]);
    fail(&[
        ("'ab'.charAt(3) == ''", "index out of range: 3"),
        ("'ab'.substring(2, 1) == ''", "invalid substring range. start: 2, end: 1"),
    ]);
}

#[test]
fn lists_and_sets() {
    hold(&[
        "[1, 2, 3].isSorted() && ![2, 1].isSorted() && [1, 2].sum() == 3 && [1, 3, 2].max() == 3 && ['b', 'a'].min() == 'a'",
        "[1, 2, 1].indexOf(1) == 0 && [1, 2, 1].lastIndexOf(1) == 2 && [].sum() == 0",
        "[1, 2, 3].slice(1, 3) == [2, 3] && [[1], [2]].flatten() == [1, 2] && [[[1]]].flatten(2) == [1]",
        "[3, 1, 2].sort() == [1, 2, 3] && [1, 2].reverse() == [2, 1] && [1, 2, 1].distinct() == [1, 2] && lists.range(3) == [0, 1, 2]",
        "[1, 2].first().value() == 1 && [1, 2].last().value() == 2 && ![].first().hasValue()",
        "sets.contains([1, 2], [2]) && sets.equivalent([1, 1], [1]) && sets.intersects([1], [1, 2]) && !sets.intersects([1], [2])",
        "[optional.of(1), optional.none()].unwrapOpt() == [1]",
    ]);
    fail(&[("[].max() == 1", "max called on empty list"), ("[1].slice(0, 2) == []", "cannot slice(0, 2), list is length 1")]);
}

#[test]
fn libraries_of_kubernetes() {
    hold(&[
        "quantity('1Gi').compareTo(quantity('1024Mi')) == 0 && quantity('200m').add(1) == quantity('1200m') && isQuantity('1k')",
        "quantity('50k').asInteger() == 50000 && !quantity('50m').isInteger() && sign(quantity('-1')) == -1",
        "quantity('1').isLessThan(quantity('2')) && quantity('2').sub(quantity('500m')).asApproximateFloat() == 1.5",
        "semver('1.2.3').isLessThan(semver('1.10.0')) && semver('v1.2', true).minor() == 2 && !isSemver('1.2') && isSemver('v01.2', true)",
        "semver('1.0.0-alpha').compareTo(semver('1.0.0')) == -1 && semver('1.0.0-2').isLessThan(semver('1.0.0-a'))",
        "ip('10.0.0.1').family() == 4 && ip('::1').isLoopback() && isIP('fe80::1') && !isIP('::ffff:1.2.3.4') && ip.isCanonical('::1')",
        "cidr('10.0.0.0/8').containsIP('10.1.2.3') && cidr('10.0.0.0/8').containsCIDR(cidr('10.1.0.0/16')) && !isCIDR('10.0.0.0')",
        "cidr('10.1.2.3/8').masked() == cidr('10.0.0.0/8') && cidr('10.0.0.0/8').prefixLength() == 8 && string(cidr('10.0.0.0/8').ip()) == '10.0.0.0'",
        "url('https://u@h.example:8080/a%20b?x=1&x=2').getHost() == 'h.example:8080' && url('https://h/a').getScheme() == 'https'",
        "url('https://h:80/a?x=1&x=2').getQuery() == {'x': ['1', '2']} && url('http://[::1]:80/').getHostname() == '::1' && url('/a').getEscapedPath() == '/a'",
        "isURL('https://a') && !isURL('a') && url('https://a:1').getPort() == '1'",
        "!isURL('http://[a]') && !isURL('http://[1.2.3.4]') && !isURL('http://a[::1]') && !isURL('http://%41')",
        "url('https://a/b#c').getEscapedPath() == '/b' && url('https://a/b?c#d').getQuery() == {'c': ['']} && url('//a/b').getHost() == 'a'",
        "url('HTTPS://a/b c') == url('https://a/b%20c') && url('https://a') != url('https://a/')",
        "!format.dns1123Label().validate('a-b').hasValue() && format.dns1123Label().validate('A').value().size() == 1",
        "format.named('uuid').value().validate('x').value() == ['does not match the UUID format'] && !format.named('x').hasValue()",
        "!format.uuid().validate('6ba7b810-9dad-11d1-80b4-00c04fd430c8').hasValue() && !format.date().validate('2024-01-31').hasValue()",
    ]);
    fail(&[
        (
            "quantity('1x') == quantity('1')",
            "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
        ),
        (
            "ip('x') == ip('::1')",
            "IP Address \"x\" parse error during conversion from string: ParseAddr(\"x\"): unable to parse IP",
        ),
        (
            "url('http://[1.2.3.4]').getHost() == ''",
            "URL parse error during conversion from string: parse \"http://[1.2.3.4]\": invalid IP-literal",
        ),
        ("url('a').getHost() == ''", "URL parse error during conversion from string: parse \"a\": invalid URI for request"),
        ("semver('1') == semver('1.0.0')", "No Major.Minor.Patch elements found"),
    ]);
}

#[test]
fn what_does_not_fit_is_refused() {
    refuse(&[
        ("x", "1: undeclared reference to 'x' (in container '')"),
        ("f(1)", "2: undeclared reference to 'f' (in container '')"),
        ("1 + 'a'", "3: found no matching overload for '_+_' applied to '(int, string)'"),
        ("'a'.charAt('b')", "11: found no matching overload for 'charAt' applied to 'string.(string)'"),
        ("[1, 'a']", "5: expected type 'int' but found 'string'"),
        ("{'a': 1, 'b': true}", "15: expected type 'int' but found 'bool'"),
        ("1 && true", "1: expected type 'bool' but found 'int'"),
        ("1.a", "2: type 'int' does not support field selection"),
        ("1.all(x, x)", "1: expression of type 'int' cannot be range of a comprehension (must be list, map, or dynamic)"),
        ("duration('x')", "10: invalid duration argument"),
        ("timestamp('x') < timestamp('2024-01-01T00:00:00Z')", "11: invalid timestamp argument"),
        ("'a'.matches('(')", "13: invalid matches argument"),
        ("[dyn(1), 2]", "10: expected type 'dyn' but found 'int'"),
        ("'%d'.format(['a'])", "14: error during formatting: decimal clause can only be used on integers, was given string"),
        ("'%s'.format([1, 2])", "12: too many arguments supplied to string.format (expected 1, got 2)"),
        ("'%q'.format([1])", "12: could not parse formatting clause: unrecognized formatting clause \"q\""),
        ("quantity(1) == quantity('1')", "9: found no matching overload for 'quantity' applied to '(int)'"),
        ("optional.of(1) == 1", "16: found no matching overload for '_==_' applied to '(optional_type(int), int)'"),
    ]);
}

#[test]
fn libraries_come_with_their_version() {
    for (expression, since) in [
        ("1 == 1", 0),
        ("[1].sum() == 1", 0),
        ("'a'.join() == ''", 99),
        ("quantity('1') == quantity('1')", 28),
        ("[1].?a.hasValue()", 99),
        ("{'a': 1}.?a.hasValue()", 28),
        ("sets.contains([1], [1])", 29),
        ("isIP('a')", 30),
        ("format.uri().validate('a').hasValue()", 31),
        ("[1].all(i, x, true)", 32),
        ("isSemver('a')", 33),
        ("[1].reverse() == [1]", 34),
    ] {
        for minor in [0, 27, 28, 29, 30, 31, 32, 33, 34] {
            assert_eq!(Env::base(minor).compile(expression).is_ok(), minor >= since, "{expression} in 1.{minor}");
        }
    }
}

struct Unknown;

impl SizeEstimator for Unknown {
    fn size(&self, _: &[Arc<str>]) -> Option<Range> {
        None
    }
}

#[test]
fn costs() {
    let unbounded = u64::MAX;
    for (expression, min, max, actual) in [
        ("1 == 1", 1, 1, 1),
        ("[1, 2]", 10, 10, 10),
        ("{'a': 1}", 30, 30, 30),
        ("object.name", 1, 1, 2),
        ("'abcdefghij' + 'abcdefghij'", 2, 2, 2),
        ("'abcdefghij'.contains('abcdefghij')", 1, 1, 1),
        ("'abcdefghij'.matches('abcdefgh')", 4, 4, 4),
        ("[1, 2, 3].all(x, x > 0)", 20, 26, 26),
        ("[1, 2, 3].map(x, x)", 60, 60, 60),
        ("'abc'.split('')", 1, 1, 1),
        ("[1, 2].sort() == [2]", 40, 40, 40),
        ("object.ports.exists(p, p == 1)", 2, unbounded, 15),
        ("false && object.name == 'x'", 0, 2, 0),
    ] {
        let ast = env().compile(expression).expect(expression);
        let estimated = estimate(&ast, &Unknown);
        let (_, cost) = evaluate(expression, u64::MAX);
        assert_eq!((estimated.min, estimated.max, cost), (min, max, actual), "{expression}");
    }
    for (expression, cost) in [
        ("authorizer.path('/x').check('get').allowed()", 350_003),
        ("authorizer.group('').resource('pods').labelSelector('a=b').check('get').reason() == ''", 350_115),
    ] {
        let ast = env().compile(expression).expect(expression);
        assert_eq!(estimate(&ast, &Unknown), Range::fixed(cost), "{expression}");
    }
}

#[test]
fn budgets_end_an_evaluation() {
    for expression in [
        "lists.range(1000).all(x, lists.range(1000).all(y, x >= 0 && y >= 0))",
        "lists.range(100000000).size() == 0",
        "true || lists.range(1000).map(x, lists.range(1000)).size() == 0 ? lists.range(1000).map(x, lists.range(1000)).size() == 0 : false",
    ] {
        let (value, cost) = evaluate(expression, 50_000);
        assert_eq!(value.err(), Some(EvalError::CostLimit), "{expression}: {cost}");
    }
    // What costs nothing by itself must not grow without bound either.
    let doubled = (0..40).fold("x + x".to_owned(), |inner, _| format!("cel.bind(x, x + x, {inner})"));
    let (value, _) = evaluate(&format!("cel.bind(x, [1, 2], {doubled}).size() == 0"), 1_000_000);
    assert_eq!(value.err(), Some(EvalError::CostLimit));
    let ast = env().compile("lists.range(1000).all(x, x >= 0)").expect("it compiles");
    let budget = Budget { cost_max: u64::MAX, interrupted: &|| true };
    assert_eq!(Program::new(&ast).evaluate(&variables(), &budget).0.err(), Some(EvalError::Interrupted));
}

/// `names` of values that each are the one before twice.
fn doubled(first: &str, next: impl Fn(&str) -> String, levels: usize, last: &str) -> String {
    let inner = (1..=levels).rev().fold(last.replace("LAST", &format!("v{levels}")), |inner, level| {
        format!("cel.bind(v{level}, {}, {inner})", next(&format!("v{}", level - 1)))
    });
    format!("cel.bind(v0, {first}, {inner})")
}

#[test]
fn types_are_bounded() {
    for (first, next) in [
        ("{1: 1}", (|name| format!("{{{name}: {name}}}")) as fn(&str) -> String),
        ("{'a': []}", |name| format!("{{{name}: {name}}}")),
    ] {
        let expression = doubled(first, next, 40, "true");
        assert!(expression.len() < 2000);
        let issues = env().compile(&expression).expect_err("refused").to_string();
        assert!(issues.contains("types of the expression are too large: more than 256 parts"), "{issues:.500}");
        assert_eq!(issues.matches("ERROR").count(), 1, "{issues:.500}");
        assert!(env().compile(&doubled(first, next, 5, "true")).is_ok());
    }
    // Each variable of a type stands for twice the next one, which no single type shows.
    let lists: String = (0..40).map(|i| format!("cel.bind(x{i}, [], ")).collect();
    let pairs: Vec<String> = (0..39).map(|i| format!("[x{i}, [{{x{n}: x{n}}}]].size() > 0", n = i + 1)).collect();
    let expression = format!("{lists}{}{}", pairs.join(" && "), ")".repeat(40));
    let issues = env().compile(&expression).expect_err("refused").to_string();
    assert!(issues.contains("types of the expression are too large: more than 256 parts"), "{issues:.500}");
}

#[test]
fn values_that_refer_to_one_many_times_are_bounded() {
    let pair = |name: &str| format!("[{name}, {name}]");
    for last in
        ["LAST == LAST", "LAST in [LAST]", "LAST.indexOf(1) == 0", "[LAST, LAST].distinct() == []", "'%s'.format([LAST]) == ''"]
    {
        let dynamic = doubled("[1, 1]", |name| format!("dyn({})", pair(name)), 60, last);
        assert_eq!(evaluate(&dynamic, 1_000_000).0.err(), Some(EvalError::CostLimit), "{last}");
    }
    // What fails or goes over its bound in the middle must not have cost memory or time either.
    let within = doubled(
        "[1, 1]",
        |name| format!("dyn({})", pair(name)),
        19,
        "lists.range(1000).exists(i, '%s'.format([[LAST, dyn(optional.none())]]) == '')",
    );
    assert_eq!(evaluate(&within, 1_000_000).0.err(), Some(EvalError::CostLimit));
    let honest = doubled("[1, 1]", pair, 8, "LAST == LAST && '%s'.format([LAST]).size() > 512");
    assert!(matches!(evaluate(&honest, 1_000_000).0, Ok(Val::Bool(true))));
}

#[test]
fn memory_is_bounded_in_sum() {
    let (short, long, items) = ("a".repeat(2000), "b".repeat(4000), vec!["1"; 2000].join(", "));
    for expression in [
        format!("lists.range(1000).map(i, '{short}'.replace('a', '{long}')).size() == 1000"),
        format!("lists.range(10000).map(i, [{items}]).size() == 10000"),
        format!("lists.range(10000).map(i, [{items}] + [i]).size() == 10000"),
        format!("lists.range(10000).map(i, '{long}'.split('')).size() == 10000"),
    ] {
        let (value, cost) = evaluate(&expression, 100_000_000);
        assert_eq!(value.err(), Some(EvalError::CostLimit), "{cost}");
        assert!(cost < 10_000_000, "{cost}");
    }
}

#[test]
fn calls_are_paid_for_before_they_are_made() {
    // Done first, each of these would be 10^10 comparisons, which the bound on steps would end with far less cost.
    for call in
        ["sets.contains(LIST, LIST)", "sets.intersects(LIST, LIST.map(i, i + 1000000))", "LIST.map(i, [i]).distinct() == []"]
    {
        let expression = call.replace("LIST", "lists.range(100000)");
        let (value, cost) = evaluate(&expression, 100_000_000);
        assert_eq!(value.err(), Some(EvalError::CostLimit), "{call}");
        assert!(cost > 1_000_000_000, "{call}: {cost}");
    }
}

#[test]
fn deep_expressions_fit_on_the_stack() {
    for (open, close) in [
        ("(", ")"),
        ("[", "].size()"),
        ("size([", "])"),
        ("1 + size([", "])"),
        ("{1: ", "}.size()"),
        ("!!(true || size([", "]) == 1) ? 1 : 2"),
    ] {
        for depth in [60, 120, 249] {
            let expression = format!("{}1{}", open.repeat(depth), close.repeat(depth));
            if let Ok(ast) = env().compile(&expression) {
                let (value, _) = Program::new(&ast).evaluate(&variables(), &Budget::cost(1_000_000));
                assert!(value.is_ok(), "{open}");
                assert!(estimate(&ast, &Unknown).max > 0 || open == "(");
            }
        }
    }
    let chain = format!("1{}", " + 1".repeat(240));
    assert!(matches!(evaluate(&chain, 1000).0, Ok(Val::Int(241))));
    let maps = format!("[1]{}.size()", ".map(x, x)".repeat(240));
    assert!(matches!(evaluate(&maps, 100_000).0, Ok(Val::Int(1))));
    let conjunction = format!("true{}", " && true".repeat(10_000));
    assert!(matches!(evaluate(&conjunction, 1000).0, Ok(Val::Bool(true))));
    let equalities = format!("1 == 1{}", " && 1 == 1".repeat(9_000));
    assert!(matches!(evaluate(&equalities, 100_000).0, Ok(Val::Bool(true))));
}
