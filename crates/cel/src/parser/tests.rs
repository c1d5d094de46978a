//! What parses, and the words for what does not.

use super::*;

const ALL: Syntax = Syntax { optionals: true, two_variables: true, sort_by: true, bindings: true };
/// What an expression may start with, as errors list it.
const START: &str =
    "{'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}";

/// The errors without the lines of the source: `COLUMN: MESSAGE`.
fn errors(source: &str, syntax: Syntax) -> Vec<String> {
    let issues = parse(source, syntax).err();
    let shown = issues.iter().flat_map(Issues::iter);
    shown.map(|issue| format!("{}: {}", issue.offset.map_or(0, |at| at + 1), issue.message)).collect()
}

fn check(source: &str, expected: &[&str]) {
    let expected: Vec<String> = expected.iter().map(|text| text.replace("START", START)).collect();
    let mut found = errors(source, ALL);
    found.sort_by_key(|text| text.split(':').next().and_then(|at| at.parse::<u32>().ok()));
    assert_eq!(found, expected, "{source}");
}

#[test]
fn valid_expressions() {
    for source in [
        "a",
        ".a.b",
        "a.b.c(d)[1].e",
        "-1 - -2.5e3 + 0x1F % 3u * .5",
        "!!a && !b || c ? d : e ? f : g",
        "[1, 2, 3,]",
        "{'a': 1, 2: 3u, true: null,}",
        "a.B{c: 1, ?d: e}",
        r#"'a\n\'\x41\u00e9\101' + "b" + '''c 'd' ''' + r'\d' + b'\xff' + br"x""#,
        "a.?b[?c].orValue([?d])",
        "has(a.b) && l.all(x, x > 0) && l.exists(i, x, i == x) && l.map(x, x > 1, x * 2) == l.transformList(i, v, v)",
        "cel.bind(x, 1, x + x)",
        "a // a comment",
        "--1 == 1 && - 1 == -1",
        "a in b in c",
    ] {
        check(source, &[]);
    }
}

#[test]
fn errors_in_the_words_of_antlr() {
    check("", &["1: Syntax error: mismatched input '<EOF>' expecting START"]);
    check("1 +", &["4: Syntax error: mismatched input '<EOF>' expecting START"]);
    check("*a", &["1: Syntax error: extraneous input '*' expecting START"]);
    check("a b", &["3: Syntax error: extraneous input 'b' expecting <EOF>"]);
    check("a b c", &["3: Syntax error: mismatched input 'b' expecting <EOF>"]);
    check("(a", &["3: Syntax error: missing ')' at '<EOF>'"]);
    check("[1 2]", &["4: Syntax error: extraneous input '2' expecting {']', ','}"]);
    check("f(a,)", &["5: Syntax error: mismatched input ')' expecting START"]);
    check("a.", &["3: Syntax error: no viable alternative at input '.'"]);
    check("a.true", &["3: Syntax error: mismatched input 'true' expecting IDENTIFIER"]);
    check("a ? b", &["6: Syntax error: mismatched input '<EOF>' expecting ':'"]);
    check(
        "a @ b | c",
        &[
            "3: Syntax error: token recognition error at: '@'",
            "5: Syntax error: mismatched input 'b' expecting <EOF>",
            "7: Syntax error: token recognition error at: '| '",
        ],
    );
    check(
        "'abc",
        &["1: Syntax error: token recognition error at: ''abc'", "5: Syntax error: mismatched input '<EOF>' expecting START"],
    );
    check("{a b}", &["4: Syntax error: missing ':' at 'b'"]);
    check("a.\tb c", &["6: Syntax error: extraneous input 'c' expecting <EOF>"]);
    check(
        "--",
        &["3: Syntax error: no viable alternative at input '-'", "3: Syntax error: mismatched input '<EOF>' expecting START"],
    );
    check("a.`b`", &["3: unsupported syntax: '`'"]);
}

#[test]
fn errors_of_literals_and_names() {
    check("while + 1", &["1: reserved identifier: while"]);
    check("9223372036854775808", &["1: invalid int literal"]);
    check("-9223372036854775808", &[]);
    check("18446744073709551616u", &["1: invalid uint literal"]);
    check("1e999", &["1: invalid double literal"]);
    check(r"'\ud800'", &["1: invalid unicode code point"]);
    check("a.?b", &[]);
    let found = errors("a.?b + [?c]", Syntax::default());
    assert_eq!(found, ["2: unsupported syntax '.?'", "9: unsupported syntax '?'"]);
}

#[test]
fn errors_of_macros() {
    check("has(a)", &["5: invalid argument to has() macro"]);
    check("a.all(1, true)", &["7: argument must be a simple name"]);
    check("a.map(1, true)", &["7: argument is not an identifier"]);
    check("a.all(x, x, true)", &["10: duplicate variable name: x"]);
    check("a.all(__result__, true)", &["7: iteration variable overwrites accumulator variable"]);
    check("a.optMap(1, b)", &["10: optMap() variable name must be a simple identifier"]);
    check("cel.bind(1, 2, 3)", &["10: cel.bind() variable names must be simple identifiers"]);
    check("'a'.sortBy(x, x)", &["1: sortBy can only be applied to a list, identifier, comprehension, call or select expression"]);
    // Without the library these are functions, which the checker will not know.
    assert_eq!(errors("a.all(x, y, true) && cel.bind(1, 2, 3)", Syntax::default()), [] as [&str; 0]);
}

#[test]
fn depth_and_size_are_bounded() {
    let deep = "expression recursion limit exceeded: 250";
    for (open, close) in [("(", ")"), ("[", "]"), ("f(", ")"), ("{1: ", "}"), ("a[", "]"), ("!(", ")"), ("a ? b : (", ")")] {
        let source = |n: usize| format!("{}1{}", open.repeat(n), close.repeat(n));
        assert_eq!(errors(&source(100), ALL), [] as [&str; 0], "{open}");
        assert!(errors(&source(90_000 / (open.len() + close.len())), ALL).iter().any(|error| error.contains(deep)), "{open}");
    }
    for chain in ["+ 1", "- a", "== 1", ".a", "[1]", ".f()", ".map(x, x)"] {
        let source = |n: usize| format!("a{}", chain.repeat(n));
        assert_eq!(errors(&source(250), ALL), [] as [&str; 0], "{chain}");
        for n in [251, 9000] {
            assert_eq!(errors(&source(n), ALL), ["0: max recursion depth exceeded"], "{chain}");
        }
    }
    for long in ["&& a ", "|| a ", ", a "] {
        let list = format!("[a {}]", long.repeat(10_000));
        assert_eq!(errors(&list, ALL), [] as [&str; 0], "{long}");
    }
    assert_eq!(errors(&"-".repeat(90_000), ALL).len(), 2);
    let size = errors(&"a".repeat(100_001), ALL);
    assert_eq!(size, ["0: expression code point size exceeds limit: size: 100001, limit 100000"]);
}

#[test]
fn no_text_is_too_odd() {
    // A small alphabet finds its way into every rule sooner than any text would.
    let parts = [
        "a", "1", "'", "\"", "(", ")", "[", "]", "{", "}", ".", ",", "?", ":", "-", "!", "+", " ", "in", "true", "`", "\\",
        "\u{e9}", "//", "\n",
    ];
    let mut state: u64 = 1;
    for _ in 0..20_000 {
        let mut source = String::new();
        for _ in 0..12 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            source.push_str(parts[(state >> 33) as usize % parts.len()]);
        }
        if let Err(issues) = parse(&source, ALL) {
            assert!(!issues.to_string().is_empty(), "{source}");
        }
    }
}
