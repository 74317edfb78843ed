//! Deliveries that ended without success are started over.

use std::collections::BTreeSet;
use std::time::Duration;

use hookline_tests::api::Api;
use hookline_tests::program::{Engine, Site, Start};
use hookline_tests::receiver::Receiver;
use hookline_tests::wait::at_least;
use serde_json::{Value, json};

use super::{JOBS, WITHIN, comes_to, exhausted, made, short, taken, written};
use crate::promises::{assert_each_once, events, webhook};

both_engines!(
    a_repaired_endpoint_gets_all_of_them_once,
    only_what_the_filter_wants_and_nothing_for_deleted_webhooks,
    a_killed_runner_repeats_nothing,
    a_job_is_paused_resumed_and_cancelled,
    live_traffic_goes_first,
);

async fn a_repaired_endpoint_gets_all_of_them_once(engine: Engine) {
    let receiver = Receiver::start().await;
    let site = Site::new(engine).await;
    let program = site.start().await;
    exhausted(&site, &receiver, "mended", 100).await;
    exhausted(&site, &receiver, "other", 20).await;
    let ids = |path: &str| {
        let all = receiver.at(path);
        let ids = all.iter().map(|r| r.webhook_id().to_owned());
        ids.collect::<BTreeSet<_>>()
    };
    let before = ids("/ok/mended");
    let viewer = Api::with_role(&site, &program, "viewer", None).await;
    let api = Api::with_role(&site, &program, "manager", Some("shop")).await;
    let body = json!({"kind": "redrive", "webhook": "mended"});
    assert_eq!(viewer.send("POST", JOBS, &body).await.status, 403);
    let id = made(&api, &body).await;
    let job = comes_to(&viewer, &id, "done").await;
    assert_eq!(job["counts"]["matched"], 100, "{job}");
    assert_eq!(written(&job), 100);
    assert_eq!(job["progress"]["read"], job["progress"]["of"]);
    at_least("all", 100, WITHIN, || taken(&receiver, "/ok/mended").len()).await;
    assert_each_once(&taken(&receiver, "/ok/mended"), 100);
    assert_eq!(ids("/ok/mended"), before, "the same ids as before");
    let listed = viewer.get(JOBS).await;
    assert_eq!(listed["items"][0]["id"], id.as_str());
    assert_eq!(taken(&receiver, "/ok/other").len(), 0);
    assert!(program.stop().await.success());
}

async fn only_what_the_filter_wants_and_nothing_for_deleted_webhooks(engine: Engine) {
    let receiver = Receiver::start().await;
    let site = Site::new(engine).await;
    let program = site.start().await;
    exhausted(&site, &receiver, "kept", 10).await;
    exhausted(&site, &receiver, "gone", 10).await;
    let api = Api::with_role(&site, &program, "admin", None).await;
    let deleted = api.ask("DELETE", "/v1/projects/shop/webhooks/gone").await;
    assert_eq!(deleted.status, 204);
    let redrive = async |flags: &[&str]| {
        let all = [&["redrive", "--project", "shop", "--output", "json"], flags];
        let printed = site.succeed(&all.concat(), "").await;
        serde_json::from_str::<Value>(&printed).unwrap()
    };
    for nothing in [
        ["--outcome", "refused"],
        ["--status", "4xx"],
        ["--event-type", "other.*"],
        ["--error-class", "timeout"],
        ["--to", "2020-01-01T00:00:00Z"],
    ] {
        let job = redrive(&nothing).await;
        assert_eq!(job["counts"]["matched"], 0, "{nothing:?}: {job}");
        assert_eq!(job["status"], "done");
    }
    let job = redrive(&["--event-type", "gone"]).await;
    assert_eq!(job["counts"]["skipped"], 10, "{job}");
    assert_eq!(written(&job), 0);
    let job = redrive(&[
        "--outcome",
        "exhausted",
        "--status",
        "500",
        "--event-id",
        "kept-3",
    ])
    .await;
    assert_eq!(written(&job), 1, "{job}");
    at_least("it", 1, WITHIN, || taken(&receiver, "/ok/kept").len()).await;
    for (flags, named) in [
        (["--webhook", "gone"], "--webhook: there is no webhook gone"),
        (["--outcome", "delivered"], "--outcome: must be one of"),
    ] {
        let all = [&["redrive", "--project", "shop"], &flags[..]].concat();
        let output = site.run(&all, "").await;
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(named), "{said}");
    }
    assert!(program.stop().await.success());
}

/// The webhook is paused meanwhile, so that nothing but the job is killed in the middle of its work.
async fn a_killed_runner_repeats_nothing(engine: Engine) {
    let receiver = Receiver::start().await;
    let site = Site::new(engine).await;
    let program = site.start().await;
    exhausted(&site, &receiver, "mended", 400).await;
    assert!(program.stop().await.success());
    let mut program = site
        .start_with(&Start::default().dies_at("jobs-handed", 150))
        .await;
    let api = Api::with_role(&site, &program, "manager", None).await;
    let hook = "/v1/projects/shop/webhooks/mended";
    drop(api.ask("POST", &format!("{hook}:pause")).await.expect(200));
    let id = made(&api, &json!({"kind": "redrive"})).await;
    program.ended(WITHIN).await;
    // Everything is handed over and noted, but not that the job is through.
    let mut program = site
        .start_with(&Start::default().dies_at("jobs-reported", 0))
        .await;
    program.ended(WITHIN).await;
    let program = site.start().await;
    let api = api.at(&program);
    let job = comes_to(&api, &id, "done").await;
    assert_eq!(written(&job), 400, "{job}");
    drop(api.ask("POST", &format!("{hook}:resume")).await.expect(200));
    at_least("all", 400, WITHIN, || taken(&receiver, "/ok/mended").len()).await;
    // What comes behind them comes after them; if one of them came twice, it would have come by then.
    site.publish(&events("live", 1)).await;
    at_least("all", 401, WITHIN, || taken(&receiver, "/ok/mended").len()).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_each_once(&taken(&receiver, "/ok/mended"), 401);
    assert!(program.stop().await.success());
}

async fn a_job_is_paused_resumed_and_cancelled(engine: Engine) {
    let receiver = Receiver::start().await;
    let site = Site::new(engine).await;
    let program = site.start().await;
    exhausted(&site, &receiver, "mended", 1500).await;
    assert!(program.stop().await.success());
    let slow = Start::default().held_up_at("jobs-handed", Duration::from_millis(4));
    let program = site.start_with(&slow).await;
    let api = Api::with_role(&site, &program, "manager", None).await;
    let id = made(&api, &json!({"kind": "redrive"})).await;
    let act = async |action: &str| api.ask("POST", &format!("{JOBS}/{id}:{action}")).await;
    at_least("some", 100, WITHIN, || taken(&receiver, "/ok/mended").len()).await;
    assert_eq!(act("pause").await.expect(200)["status"], "paused");
    // Its runner lets it go with a last word.
    let let_go = async || {
        let job = api.get(&format!("{JOBS}/{id}")).await;
        if job["worker"].is_null() {
            Ok(())
        } else {
            Err(job)
        }
    };
    hookline_tests::wait::eventually("it is let go", WITHIN, let_go).await;
    let count = usize::try_from(written(&comes_to(&api, &id, "paused").await)).unwrap();
    assert!((100..1500).contains(&count), "{count}");
    at_least("those", count, WITHIN, || {
        taken(&receiver, "/ok/mended").len()
    })
    .await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(taken(&receiver, "/ok/mended").len(), count);
    assert_eq!(act("resume").await.expect(200)["status"], "pending");
    let job = comes_to(&api, &id, "done").await;
    assert_eq!(written(&job), 1500, "{job}");
    at_least("all", 1500, WITHIN, || taken(&receiver, "/ok/mended").len()).await;
    assert_each_once(&taken(&receiver, "/ok/mended"), 1500);
    for action in ["pause", "resume", "cancel"] {
        assert_eq!(act(action).await.status, 409, "{action}");
    }
    let unknown = act("stop").await;
    assert_eq!(unknown.status, 404, "{}", unknown.body);

    // Another one, which is ended on the way.
    let id = made(&api, &json!({"kind": "redrive"})).await;
    at_least("some", 1600, WITHIN, || {
        taken(&receiver, "/ok/mended").len()
    })
    .await;
    let cancel = format!("{JOBS}/{id}:cancel");
    assert_eq!(
        api.ask("POST", &cancel).await.expect(200)["status"],
        "cancelled"
    );
    let let_go = async || {
        let job = api.get(&format!("{JOBS}/{id}")).await;
        if job["worker"].is_null() {
            Ok(())
        } else {
            Err(job)
        }
    };
    hookline_tests::wait::eventually("it is let go", WITHIN, let_go).await;
    let job = comes_to(&api, &id, "cancelled").await;
    assert!(written(&job) < 1500, "{job}");
    let all = 1500 + usize::try_from(written(&job)).unwrap();
    at_least("those", all, WITHIN, || {
        taken(&receiver, "/ok/mended").len()
    })
    .await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(taken(&receiver, "/ok/mended").len(), all);
    assert!(program.stop().await.success());
}

async fn live_traffic_goes_first(engine: Engine) {
    let receiver = Receiver::start().await;
    let site = Site::new(engine).await;
    let program = site.start().await;
    exhausted(&site, &receiver, "busy", 300).await;
    let slowly = format!("rate_limit: 40/s\n{}", short("busy"));
    site.apply(&webhook("busy", &receiver.url("/ok/busy"), &slowly))
        .await;
    let api = Api::with_role(&site, &program, "manager", None).await;
    let id = made(&api, &json!({"kind": "redrive", "webhook": "busy"})).await;
    comes_to(&api, &id, "done").await;
    at_least("some", 10, WITHIN, || taken(&receiver, "/ok/busy").len()).await;
    site.publish(&events("live", 20)).await;
    let live = || {
        let all = taken(&receiver, "/ok/busy");
        all.iter().filter(|r| r.json()["type"] == "live").count()
    };
    at_least("the live ones", 20, WITHIN, live).await;
    // At that rate all of them would take eight seconds.
    let redriven = taken(&receiver, "/ok/busy").len() - 20;
    assert!(redriven < 250, "{redriven} went before");
    at_least("all", 320, WITHIN, || taken(&receiver, "/ok/busy").len()).await;
    assert_each_once(&taken(&receiver, "/ok/busy"), 320);
    assert!(program.stop().await.success());
}
