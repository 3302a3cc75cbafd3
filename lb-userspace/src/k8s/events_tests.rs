//! What the parser makes of the corners of YAML, and of JSON.

use super::{Node, Value, parse};

fn json(node: &Node<'_>) -> String {
    match &node.value {
        Value::Null => "null".to_owned(),
        Value::Bool(b) => b.to_string(),
        Value::Signed(n) => n.to_string(),
        Value::Unsigned(n) => n.to_string(),
        Value::Float(n) => format!("{n:?}f"),
        Value::Text(t) => format!("{t:?}"),
        Value::List(l) => format!("[{}]", l.iter().map(json).collect::<Vec<_>>().join(",")),
        Value::Map(m) => {
            let entries: Vec<_> = m.entries.iter().map(|(k, v)| format!("{k}={}", json(v))).collect();
            format!("{{{}}}", entries.join(","))
        }
    }
}

#[track_caller]
fn check(text: &str, expected: &str) {
    match parse(text) {
        Ok(node) => assert_eq!(json(&node), expected, "{text:?}"),
        Err(e) => panic!("{text:?}: {e:?}"),
    }
}

#[test]
fn scalars() {
    check("[80, \"80\", '80', !!str 80]", r#"[80,"80","80","80"]"#);
    check("[0080, 010, 0, -1, +5]", r#"["0080","010",0,-1,5]"#);
    check("[1_000, 0x50, 1e3, 80.0]", r#"["1_000",80,1000.0f,80.0f]"#);
    check("[yes, on, No, y, true, False, TRUE]", r#"["yes","on","No","y",true,false,true]"#);
    check("[~, null, '', ]", r#"[null,null,""]"#);
    check("[2024-01-02T03:04:05Z, 10.0.0.1, fd00::1, '::']", r#"["2024-01-02T03:04:05Z","10.0.0.1","fd00::1","::"]"#);
    check(
        "[.5, 5., 1.5e-3, .e1, 1e, 1.2.3, 0o17, 0o8, 0x, +, ., inf, NaN]",
        r#"[0.5f,5.0f,0.0015f,".e1","1e","1.2.3",15,"0o8","0x","+",".","inf","NaN"]"#,
    );
    check(
        "[!!int '80', !!bool 'true', !!null '', !!str 1, ! 1, !x 1, !!binary aGk=]",
        r#"[80,true,null,"1","1","1","aGk="]"#,
    );
    check("[.inf, .nan]", r#"[".inf",".nan"]"#);
    // Too large for any field of ours, which then says so.
    check("[99999999999999999999, 18446744073709551615]", "[1e20f,18446744073709551615]");
}

#[test]
fn layout() {
    check("a: 1\r\nb:\r\n- x\r\n- y # note\r\n", r#"{a=1,b=["x","y"]}"#);
    check("--- # doc\na: |\n  x\n  y\nb: >-\n  p\n  q\n", r#"{a="x\ny\n",b="p q"}"#);
    check("---\n# only\na:\n", "{a=null}");
    check("a: &x {p: 1}\nb: *x\nc:\n  <<: *x\n  q: 2\n", "{a={p=1},b={p=1},c={q=2,p=1}}");
    check(
        "base: &b {p: 1, q: 2}\nmore: &m {q: 3, r: 4}\nc: {<<: [*b, *m], p: 0}\n",
        "{base={p=1,q=2},more={q=3,r=4},c={p=0,q=2,r=4}}",
    );
    check("a: {'<<': 1}\n", "{a={<<=1}}");
    check("a: [&x 1, *x, &x 2, *x]\n", "{a=[1,1,2,2]}");
    check("a:\t1\nb: 2\t# tab\n", "{a=1,b=2}");
    check("? [1, 2]\n: x\n80: y\n", r#"{[…]="x",80="y"}"#);
}

#[test]
fn json_documents() {
    check(
        "{\n\t\"a\": [\n\t\t1,\n\t\t\"\\u00e9\\/\\ud83d\\ude00\\n\"\n\t],\n\t\"b\":{\"c\":null,\"d\":true}}\n",
        r#"{a=[1,"é/😀\n"],b={c=null,d=true}}"#,
    );
    check(
        "{\"a\":1,\"b\":\"x: y # z\",\"c\":-0.5,\"k:{\\\"port\\\":80}\":{}}",
        r#"{a=1,b="x: y # z",c=-0.5f,k:{"port":80}={}}"#,
    );
    let long = "k".repeat(5000);
    check(&format!("{{\"a\": \"{long}\"}}"), &format!("{{a={long:?}}}"));
}

#[test]
fn lines_are_those_of_the_document() {
    let node = parse("# first\na:\n  b: 1\nc:\n- d: 1\n  e: 2\n-\n  f: 3\n").unwrap();
    assert_eq!(node.line, 2);
    assert_eq!(node.get("a").unwrap().line, 3);
    let Value::List(items) = &node.get("c").unwrap().value else { panic!("no list") };
    assert_eq!((items[0].line, items[0].get("e").unwrap().line, items[1].line), (5, 6, 8));
}

#[test]
fn repeated_keys_are_remembered() {
    let node = parse("items:\n- a: 1\n- b:\n    x: 1\n    y: 2\n    x: 3\n").unwrap();
    let (invalid, line) = node.repeated_key().unwrap();
    assert_eq!((invalid.path.to_string().as_str(), line), ("items[1].b", 6));
    let Value::List(items) = &node.get("items").unwrap().value else { panic!("no list") };
    assert!(items[0].repeated_key().is_none());
}

#[test]
fn broken_text_is_named_with_its_line() {
    for (text, line) in [("a: 1\nb: [1\n", 2..=3), ("a: 1\n  b: 2\n", 2..=2), ("a:\n\tb: 1\n", 2..=2), ("\"x", 1..=1)] {
        let error = parse(text).unwrap_err();
        assert!(line.contains(&error.line), "{text:?}: {error:?}");
        assert!(!error.cause.is_empty() && !error.cause.contains('\n'), "{error:?}");
    }
    for bad in ["a: &x [*x]\n", "a: *x\n", "a: {<<: 1}\n", "a: {<<: [1]}\n"] {
        assert!(parse(bad).is_err(), "{bad:?}");
    }
    assert!(parse(&format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000))).is_err(), "depth is limited");
    let bomb = (1..10).fold("a0: &a0 [x, x, x]\n".to_owned(), |s, i| {
        let p = i - 1;
        format!("{s}a{i}: &a{i} [{}]\n", vec![format!("*a{p}"); 10].join(", "))
    });
    assert!(parse(&bomb).is_err(), "alias expansion is limited");
}
