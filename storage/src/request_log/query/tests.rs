use super::schema::Content;
use super::*;

/// How the database goes about it, a line a step.
fn plan(filter: &Filter, cursor: Option<&Cursor>) -> String {
    let dir = tempfile::tempdir().unwrap();
    let connection = schema::open(&dir.path().join("day.sqlite"), Content::Records).unwrap();
    let clauses = Clauses::of(filter, cursor);
    let sql = format!("EXPLAIN QUERY PLAN {}", clauses.sql(100));
    let mut statement = connection.prepare(&sql).unwrap();
    let steps = statement
        .query_map(params_from_iter(&clauses.values), |row| row.get::<_, String>(3))
        .unwrap();
    steps.map(Result::unwrap).collect::<Vec<_>>().join("\n")
}

#[test]
fn pages_are_read_off_an_index_in_their_order() {
    let text = |it: &str| Some(it.to_owned());
    let cursor = Cursor { at_ms: 5, id: 7, node: "n".to_owned() };
    let cases = [
        (Filter::default(), "records_at"),
        (Filter { from_ms: Some(1), to_ms: Some(9), ..Filter::default() }, "records_at"),
        (Filter { key: text("k"), ..Filter::default() }, "records_key"),
        (Filter { model: text("m"), from_ms: Some(1), ..Filter::default() }, "records_model"),
        (Filter { status: Some(Status::Failed), ..Filter::default() }, "records_not_ok"),
        (Filter { team: text("t"), ..Filter::default() }, "records_at"),
    ];
    for (filter, index) in cases {
        for cursor in [None, Some(&cursor)] {
            let plan = plan(&filter, cursor);
            assert!(plan.contains(&format!("INDEX {index}")), "{filter:?}: {plan}");
            let sorts_all = plan.lines().any(|it| it.contains("TEMP B-TREE FOR ORDER BY"));
            assert!(!sorts_all, "only entries of one millisecond are sorted: {plan}");
        }
    }
    let of_parent = plan(&Filter { parent: Some(1), ..Filter::default() }, None);
    assert!(of_parent.contains("INDEX records_parent"), "{of_parent}");
}

#[test]
fn what_a_search_holds_is_text_and_no_pattern() {
    assert_eq!(escape_like(r"50%_\x"), r"50\%\_\\x");
}
