use serde_json::{Map, Value, json};

use super::*;
use crate::outcome::Outcome;

const NOW: Millis = Millis(1_700_000_000_000);

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        other => panic!("{other} is no object"),
    }
}

fn spec(value: Value) -> JobSpec {
    JobSpec::read(&object(value)).expect("valid")
}

fn wrong(value: Value) -> Vec<String> {
    let errors = JobSpec::read(&object(value)).expect_err("wrong");
    errors.into_iter().map(|error| error.field).collect()
}

fn job() -> Job {
    let part = |partition, start, end| JobPartition {
        partition,
        start,
        position: start,
        end,
    };
    let spec = spec(json!({"kind": "redrive"}));
    Job::new(&spec, None, vec![part(0, 10, 20), part(3, 0, 5)], NOW)
}

fn report(index: usize, position: u64, written: u64) -> JobReport {
    let counts = JobCounts {
        written,
        ..JobCounts::default()
    };
    JobReport {
        index,
        position,
        counts,
    }
}

#[test]
fn what_is_asked_for_is_read_and_written_again() {
    let document = json!({
        "kind": "redrive",
        "webhook": "crm",
        "filter": {
            "event_type": "order.*", "event_id": "e1", "outcome": "exhausted", "error_class": "status", "status": "5xx",
            "from": "2026-01-31T12:00:00.000Z", "to": "2026-02-01T00:00:00.000Z",
        },
    });
    assert_eq!(spec(document.clone()).to_document(), document);
    let inside = spec(json!({"kind": "replay", "filter": {"webhook": "crm"}}));
    assert_eq!(inside.webhook.as_deref(), Some("crm"));
    let number = spec(json!({"kind": "redrive", "filter": {"status": 503}}));
    assert_eq!(number.filter.status, Some(StatusIs::Exactly(503)));
}

#[test]
fn everything_that_is_wrong_is_said_at_once() {
    assert_eq!(wrong(json!({})), ["kind"]);
    assert_eq!(wrong(json!({"kind": "replay"})), ["webhook"]);
    assert_eq!(
        wrong(json!({"kind": "both", "x": 1, "filter": {"from": "soon", "status": "5x", "y": 2}})),
        ["x", "kind", "filter.y", "filter.status", "filter.from"]
    );
    assert_eq!(
        wrong(json!({"kind": "redrive", "filter": {"outcome": "delivered"}})),
        ["filter.outcome"]
    );
    assert_eq!(
        wrong(
            json!({"kind": "replay", "webhook": "a", "filter": {"webhook": "b", "outcome": "exhausted"}})
        ),
        ["filter.webhook", "filter.outcome"]
    );
    assert_eq!(
        wrong(
            json!({"kind": "redrive", "filter": {"from": "2026-01-31T12:00:00Z", "to": "2026-01-31T12:00:00Z"}})
        ),
        ["filter.to"]
    );
    assert_eq!(wrong(json!({"kind": "redrive", "filter": []})), ["filter"]);
}

#[test]
fn a_filter_wants_what_holds_in_every_word() {
    let end = Final {
        event_type: "order.paid",
        event_id: "e1",
        outcome: Some(Outcome::Exhausted),
        error_class: "status",
        status: 503,
        at: Millis(1000),
    };
    let wants = |filter: Value| {
        let spec = spec(json!({"kind": "redrive", "filter": filter}));
        spec.filter.wants_final(&end)
    };
    for yes in [
        json!({}),
        json!({"event_type": "order.*", "status": "5xx", "outcome": "exhausted", "error_class": "status", "event_id": "e1"}),
        json!({"status": 503}),
        // From is inside the range, to is not.
        json!({"from": "1970-01-01T00:00:01Z", "to": "1970-01-01T00:00:02Z"}),
    ] {
        assert!(wants(yes.clone()), "{yes}");
    }
    for no in [
        json!({"event_type": "order"}),
        json!({"event_id": "e2"}),
        json!({"status": "4xx"}),
        json!({"status": 500}),
        json!({"outcome": "refused"}),
        json!({"error_class": "timeout"}),
        json!({"to": "1970-01-01T00:00:01Z"}),
        json!({"from": "1970-01-01T00:00:01.001Z"}),
    ] {
        assert!(!wants(no.clone()), "{no}");
    }
    // What had no answer has no status.
    let unanswered = Final { status: 0, ..end };
    let spec = spec(json!({"kind": "redrive", "filter": {"status": "5xx"}}));
    assert!(!spec.filter.wants_final(&unanswered));
}

#[test]
fn the_stored_form_is_read_back_and_an_unknown_word_of_a_filter_is_refused() {
    let mut job = job();
    job.filter = spec(json!({"kind": "redrive", "filter": {"status": "5xx"}})).filter;
    assert!(job.take("here-1", "t1", NOW));
    let stored = serde_json::to_value(&job).expect("JSON");
    assert_eq!(
        serde_json::from_value::<Job>(stored.clone()).ok(),
        Some(job)
    );
    let mut newer = stored;
    newer["filter"]["moon"] = "full".into();
    assert!(serde_json::from_value::<Job>(newer).is_err());
}

#[test]
fn one_runner_has_a_job_until_it_is_silent() {
    let mut job = job();
    assert!(job.take("here-1", "t1", NOW));
    assert!(!job.take("here-2", "t2", NOW.plus(JOB_LEASE)));
    // With progress it goes on.
    let later = NOW.plus(JOB_LEASE);
    assert_eq!(job.report("t1", &report(0, 15, 3), later), Standing::Ours);
    assert!(!job.take("here-2", "t2", later.plus(JOB_LEASE)));
    let silent = later.plus(JOB_LEASE).plus(Duration::from_millis(1));
    assert!(job.take("here-2", "t2", silent));
    // Whoever was silent says nothing more.
    let before = job.clone();
    assert_eq!(job.report("t1", &report(0, 19, 9), silent), Standing::Lost);
    job.finish("t1", silent);
    job.fail("t1", "because", silent);
    job.release("t1");
    assert_eq!(job, before);
    assert_eq!(job.partitions[0].position, 15);
    assert_eq!(job.read_of(), (5, 15));
    job.release("t2");
    assert!(job.take("here-3", "t3", silent));
}

#[test]
fn positions_only_rise_and_end_at_the_end() {
    let mut job = job();
    job.take("here-1", "t1", NOW);
    job.report("t1", &report(0, 99, 1), NOW);
    job.report("t1", &report(0, 12, 2), NOW);
    job.report("t1", &report(7, 12, 2), NOW);
    assert_eq!(job.partitions[0].position, 20);
    assert_eq!(job.counts.written, 2);
}

#[test]
fn people_pause_resume_and_cancel() {
    let mut job = job();
    job.take("here-1", "t1", NOW);
    job.pause().expect("it runs");
    assert!(!job.is_free(NOW.plus(JOB_LEASE * 9)));
    assert_eq!(job.standing("t1"), Standing::Told);
    // The last word of its runner.
    assert_eq!(job.report("t1", &report(0, 12, 2), NOW), Standing::Told);
    assert_eq!((job.partitions[0].position, &job.owner), (12, &None));
    job.pause().expect("again is just as well");
    job.resume().expect("it waits");
    assert_eq!(job.status, JobStatus::Pending);
    assert!(job.take("here-2", "t2", NOW));
    job.resume().expect("it runs");
    assert_eq!(job.status, JobStatus::Running);
    // Resumed before its runner noticed that it was paused, it may be taken, and that runner has lost it.
    job.pause().expect("it runs");
    job.resume().expect("it waits");
    assert!(job.take("here-3", "t3", NOW));
    assert_eq!(job.standing("t2"), Standing::Lost);
    job.cancel(NOW).expect("it runs");
    assert_eq!(job.report("t3", &report(0, 14, 4), NOW), Standing::Told);
    job.finish("t3", NOW);
    job.cancel(NOW.plus(JOB_LEASE))
        .expect("again is just as well");
    assert_eq!(job.finished_at_ms, Some(NOW.0));
    assert_eq!((job.status, job.counts.written), (JobStatus::Cancelled, 4));
    let refused = job.resume().expect_err("it is over");
    assert_eq!(
        refused.to_string(),
        "it is cancelled, and only a job that is not over can be resumed"
    );
    assert!(job.pause().is_err() && !job.is_free(NOW.plus(JOB_LEASE * 9)));
}

#[test]
fn a_job_ends_once() {
    let mut done = job();
    done.take("here-1", "t1", NOW);
    done.finish("t1", NOW);
    assert_eq!(
        (done.status, done.finished_at_ms),
        (JobStatus::Done, Some(NOW.0))
    );
    assert!(done.cancel(NOW).is_err());
    let mut failed = job();
    failed.take("here-1", "t1", NOW);
    failed.fail("t1", "because", NOW);
    assert_eq!(
        (failed.status, failed.error.as_deref()),
        (JobStatus::Failed, Some("because"))
    );
}
