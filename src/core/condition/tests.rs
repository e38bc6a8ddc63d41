use serde_json::json;

use super::*;

fn values(reference: &str) -> Option<Value> {
    let values = json!({
        "load.count": 7, "load.zero": 0, "load.mean": 2.5, "load.rows": [1, 2, 3], "load.flag": true,
        "load.none": null, "load.big": 12_345_678_901_234_567_890_u64, "load.text": "10",
        "load.map": {"a": 1, "none": null}, "check.status": "completed", "Load Data.name": "Größe",
        "evil": "1 or true", "quote": "' or '1' == '1", "load.ref": "${load.count}", "deep": [[1], [2, [3]]],
    });
    values.get(reference).cloned()
}

fn held(text: &str) -> Result<bool, String> {
    Condition::parse(text)?.holds(&values)
}

#[track_caller]
fn check(text: &str, expected: bool) {
    assert_eq!(held(text), Ok(expected), "{text}");
}

#[track_caller]
fn check_refused(text: &str, part: &str) {
    let problem = Condition::parse(text).expect_err(text);
    assert!(problem.contains(part), "{text}: {problem}");
}

#[track_caller]
fn check_fails(text: &str, part: &str) {
    let condition = Condition::parse(text).unwrap_or_else(|problem| panic!("{text}: {problem}"));
    let problem = condition.holds(&values).expect_err(text);
    assert!(problem.contains(part), "{text}: {problem}");
}

#[test]
fn values_are_compared_with_their_types() {
    check("${load.count} > 3 and ${check.status} == 'completed'", true);
    check("${load.count} == 7.0", true);
    check("${load.count} != 7", false);
    check("${ load.mean } <= 2.5", true);
    check("${load.text} == '10'", true);
    check("${load.text} == 10", false);
    check("${load.text} != 10", true);
    check("${load.flag}", true);
    check("${load.flag} == 1", false);
    check("${load.none} == none", true);
    check("${load.none} == null or ${load.none} > 3", true);
    check("${load.big} == 12345678901234567890", true);
    check("${load.big} > 12345678901234567889", true);
    check("${check.status} < \"d\"", true);
    check("${load.rows} == [1, 2, 3]", true);
    check("${load.rows} == []", false);
    check("${Load Data.name} == 'Größe'", true);
    check("${deep} == [[1], [2, [3]]]", true);
}

#[test]
fn operators_bind_as_one_expects() {
    check("1e-6 < 0.00001 and 2.5E+3 == 2500 and 1e9 > 3", true);
    check("1 + 2 * 3 == 7 and (1 + 2) * 3 == 9", true);
    check("true or false and false", true);
    check("not true or true", true);
    check("not (true or true)", false);
    check("not ${load.count} > 3", false);
    check("not not true", true);
    check("10 - 2 - 3 == 5 and 2 - -3 == 5 and --2 == 2", true);
    check("7 // 2 == 3 and 7 % 2 == 1 and 7 / 2 == 3.5 and -7 // 2 == -4", true);
    check("${load.rows} | length + 1 == 4", true);
    check("length(${load.rows}) * 2 == 6", true);
    check("${Load Data.name}|upper == 'GRÖSSE' and lower('AbC') == 'abc'", true);
    check("length('é') == 1 and length(${load.map}) == 2", true);
    check("${check.status} in ['completed', 'skipped']", true);
    check("2 in ${load.rows} and 9 not in ${load.rows} and true not in [1]", true);
    check("'plete' in ${check.status} and 'a' in ${load.map} and 'none' in ${load.map}", true);
    check("'b' in ${load.map}", false);
    check("[1, 2,] == [1, 2]", true);
    check(r#"'it\'s' == "it's" and length('a\nb') == 3"#, true);
}

#[test]
fn references_are_named_once_in_order() {
    let condition = Condition::parse("${b} == ${ a } or ${b} == ${Load Data.rows[0]}").expect("well formed");
    assert_eq!(condition.references(), ["b", "a", "Load Data.rows[0]"]);
    assert!(Condition::parse("1 < 2").expect("well formed").references().is_empty());
}

#[test]
fn what_a_task_gave_never_becomes_code() {
    check("${evil} == '1 or true'", true);
    check("${quote} != ''", true);
    check("'load.count' in ${load.ref} and ${load.ref} != ${load.count}", true);
    check_fails("${evil}", "gives the text \"1 or true\", which is neither true nor false");
}

#[test]
fn a_wrong_kind_is_an_error_and_not_an_answer() {
    check_fails(
        "${load.text} > 3",
        "at character 14: > takes two numbers or two texts, found the text \"10\" and 3",
    );
    check_fails("${load.none} > 3", "found null and 3");
    check_fails("${load.flag} < 2", "found true and 2");
    check_fails("${load.rows} < ${load.rows}", "found a list of 3 and a list of 3");
    check_fails("${load.text} + 1 == 11", "at character 14: reckoning takes numbers, found the text \"10\"");
    check_fails("${load.flag} + 1 == 2", "found true");
    check_fails("-${load.text} == 1", "reckoning takes numbers");
    check_fails("${load.count} and true", "and, or, not take true or false, found 7; compare it");
    check_fails("true and ${load.count}", "found 7");
    check_fails("not ${load.none}", "found null");
    check_fails("1 in 2", "in takes a list, a text or a mapping, found 2");
    check_fails("1 in ${load.text}", "in takes a text for the text \"10\", found 1");
    check_fails("length(3) == 1", "length takes a text, list or mapping, found 3");
    check_fails("lower(3) == '3'", "lower takes a text, found 3");
    check_fails("${load.count}", "gives 7, which is neither true nor false");
    check_fails("${load.count} + 1", "gives 8");
    check_fails("none", "gives null");
    check_fails("${load.map}", "gives a mapping with 2 keys");
    for division in ["1 / 0 == 1", "1 // ${load.zero} == 1", "1 % 0.0 == 1"] {
        check_fails(division, "division by zero");
    }
    check_fails("${nobody.x} == 1", "${nobody.x} has no value");
    check_fails("false and ${nobody.x} == 1", "${nobody.x} has no value");
    let huge = "170141183460469231731687303715884105727";
    check_fails(&format!("{huge} + 1 > 0"), "");
}

#[test]
fn what_is_not_of_the_language_is_refused_with_its_place() {
    check_refused("", "at character 1: the condition ends where a value should come");
    check_refused("${a} >", "at character 7: the condition ends");
    check_refused("${a} = 1", "at character 6: '=' has no meaning here; == compares");
    check_refused("${a} && true", "it is written `and`");
    check_refused("!${a}", "it is written `not`");
    check_refused("${a", "at character 1: this is no reference: it is not closed");
    check_refused("${} == 1", "it names no task");
    check_refused("'${a}' == 'x'", "a reference cannot stand inside quotes");
    check_refused("'x", "the text is not closed by '");
    check_refused("a.count > 3", "'.' has no meaning here");
    check_refused("count > 3", "\"count\" is not known; a value of a task is written ${task.key}");
    check_refused("${a}[0] == 1", "a part of a value is written inside the braces");
    check_refused("${a}.b == 1", "'.' has no meaning here");
    check_refused("1 < 2 < 3", "two values are compared at a time");
    check_refused("${a} ${b}", "${b} stands where it cannot");
    check_refused("(1 == 1", "at character 1: what is opened here is not closed by )");
    check_refused("1 == 1)", "at character 7: ) stands where it cannot");
    check_refused("in 3", "`in` stands");
    check_refused("1 if true else 2", "\"if\" is not known");
    check_refused("${a} is none", "\"is\" is not known");
    for wrong in ["1e > 3", "1e+ > 3", "1e999 > 3", "1e9x > 3", "1e9.5 > 3"] {
        check_refused(wrong, "this is no number");
    }
    check_refused("1_000 > 3", "this is no number");
    check_refused("0x10 > 3", "this is no number");
    check_refused("99999999999999999999999999999999999999999999 > 3", "");
    check_refused("2 ** 3 == 8", "* stands where it cannot");
    check_refused("'a' ~ 'b' == 'ab'", "'~' has no meaning here");
    check_refused("{'a': 1} == ${a}", "'{' has no meaning here");
    check_refused("length(1, 2) == 1", ", stands where it cannot");
}

#[test]
fn hostile_conditions_are_refused() {
    check_refused("r0 == 1", "\"r0\" is not known");
    for name in ["range(9)", "flag(1, 2)", "number(1, 2)", "dict()", "namespace()", "debug()", "lipsum()"] {
        check_refused(&format!("{name} == 1"), "there is no function");
    }
    check_refused("${a} | attr", "there is no function \"attr\"; there are length, lower, upper");
    check_refused("''.__class__", "'.' has no meaning here");
    check_refused("self.name", "has no meaning here");
    check_refused("1 == 1 %}{{ x", "'}' has no meaning here");
    check_refused(&"(".repeat(1999), "at character ");
    check_refused(&"not ".repeat(400), "at character ");
    check_refused(&"-".repeat(1999), "at character ");
    check_refused(&"[".repeat(1999), "at character ");
    check_refused(&"1+".repeat(990), "at most 256 words and signs");
    check_refused(&format!("1 {}", "| length ".repeat(100)), "nested deeper than");
    check_refused(&"x".repeat(2001), "has 2001 bytes; allowed are 2000");
    for text in ["'x' * 100000000 == ''", "[1] * 100000000 == []", "3 * 'x' == ''", "'a' + 'b' == 'ab'"] {
        check_fails(text, "reckoning takes numbers");
    }
}

#[test]
fn the_largest_conditions_are_computed() {
    let deepest =
        |open: &str, inner: &str, close: &str| format!("{}{inner}{}", open.repeat(8), close.repeat(8));
    check(&deepest("(", "1 == 1", ")"), true);
    check(&deepest("not ", "true", ""), true);
    // Every level of precedence at every depth: well formed for the library, though of the wrong kinds.
    let whole = deepest("true or true and 1 == 1 + 2 * length(", "'a'", ")");
    assert!(Condition::parse(&whole).is_ok(), "{:?}", Condition::parse(&whole));
    assert_eq!(held(&whole), Ok(true), "the first `true` decides");
    let whole = deepest("false or true and 1 == 1 + 2 * length(", "'a'", ")");
    assert!(held(&whole).is_err_and(|problem| problem.contains("length takes")));
    check(&format!("{} == 100", vec!["1"; 100].join(" + ")), true);
    check(&vec!["true"; 128].join(" and "), true);
    check(&vec!["false"; 128].join(" or "), false);
    check(&format!("{}1{} == [1]", "[".repeat(8), "]".repeat(8)), false);
}

#[test]
fn the_values_of_a_condition_are_bounded_by_how_often_they_are_used() {
    let large = Value::from("x".repeat(VALUES_BYTES_MAX / 4));
    let hold = |text: &str| Condition::parse(text).expect("well formed").holds(&|_| Some(large.clone()));
    assert_eq!(hold("'y' not in ${a} and length(${a}) > 3"), Ok(true));
    let problem = hold("'y' in ${a} or 'y' in ${a} or 'y' in ${b} or 'y' in ${c}").expect_err("too much");
    assert!(problem.contains("${c} is too large"), "{problem}");
    let many = Value::Array(vec![Value::Null; VALUES_BYTES_MAX / 8]);
    let held = Condition::parse("length(${a}) > 3").expect("well formed").holds(&|_| Some(many.clone()));
    assert!(held.is_err_and(|problem| problem.contains("too large")));
}

proptest::proptest! {
    #[test]
    fn any_text_is_held_or_refused(text in "(\\$\\{(load\\.count|load\\.rows|x)\\}|[0-9]{1,3}|'a'|and|or|not|in|length|true|none|[-+*/%<>=!()\\[\\],| ]|==| ){0,24}") {
        let _ = held(&text);
    }

    #[test]
    fn any_characters_are_held_or_refused(text in ".{0,60}") {
        let _ = held(&text);
    }
}

#[test]
fn a_number_that_cannot_be_reckoned_with_is_named() {
    let value = |text: &str| serde_json::from_str::<Value>(text).expect("JSON");
    let condition = Condition::parse("${a} > 1").expect("a condition");
    for text in ["1e400", "[-1e400]", "{\"x\": 1e400}"] {
        let problem = condition.holds(&|_| Some(value(text))).expect_err("no such number");
        assert!(problem.starts_with("${a} has the number ") && problem.contains("1e+400: "), "{problem}");
    }
    assert_eq!(condition.holds(&|_| Some(value("1e300"))), Ok(true));
    let digits = condition.holds(&|_| Some(value(&"9".repeat(400)))).expect_err("too large");
    assert!(digits.contains("9...: conditions reckon") && digits.len() < 200, "{digits}");
}
