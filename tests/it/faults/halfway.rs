//! What is written in more than one step, and killed between them: a registration, a change of one, a deactivation.

use std::time::Duration;

use hookline_tests::program::{Engine, Site};
use hookline_tests::receiver::{Received, Receiver};
use hookline_tests::wait::{at_least, eventually};

use super::{ALL, worker};
use crate::promises::{assert_signed, event, secrets, webhook};

const WITHIN: Duration = Duration::from_secs(30);

both_engines!(
    a_registration_killed_halfway_is_there_or_not_and_is_repeated_without_harm,
    a_deactivation_killed_halfway_is_done_by_the_next_owner,
);

const APPLY: [&str; 3] = ["apply", "-f", "-"];

async fn shown(site: &Site, name: &str) -> Option<serde_json::Value> {
    let arguments = ["get", "webhook", name, "--project", "shop"];
    let output = site
        .run(&[&arguments[..], &["--output", "json"]].concat(), "")
        .await;
    output
        .status
        .success()
        .then(|| serde_json::from_slice(&output.stdout).expect("JSON"))
}

/// K21, K22: the old or the new one holds, never none and never a mixture.
async fn a_registration_killed_halfway_is_there_or_not_and_is_repeated_without_harm(
    engine: Engine,
) {
    let (receiver, site) = (Receiver::start().await, Site::new(engine).await);
    let printed = site
        .apply(&webhook("moving", &receiver.url("/ok/0"), ""))
        .await;
    let secret = secrets(&printed).remove(0);
    let program = site.start_with(&worker("serve", ALL)).await;
    let mut sent = 0;
    for (n, (point, stored)) in [
        ("registry-appending", false),
        ("registry-appended", true),
        ("registry-appending", false),
        ("registry-appended", true),
    ]
    .into_iter()
    .enumerate()
    {
        // A change.
        let before = shown(&site, "moving").await.expect("it is registered");
        let url = receiver.url(&format!("/ok/{}", n + 1));
        let change = webhook("moving", &url, "");
        site.dies(&APPLY, &change, point).await;
        let after = shown(&site, "moving").await.expect("it is registered");
        assert_eq!(after["url"] == url.as_str(), stored, "{point}: {after}");
        assert_eq!(after["uid"], before["uid"], "it is the same one");
        let path = if stored { n + 1 } else { n };
        sent += 1;
        site.publish(&[event("order", &format!("e{sent}"), "{}")])
            .await;
        let path = format!("/ok/{path}");
        let to_it = || receiver.journal(|all| all.iter().filter(|r| r.path == path).count());
        at_least(&path, 1, WITHIN, to_it).await;
        // Whoever repeats it gets what was asked for, and the key that receivers know stays valid.
        site.apply(&change).await;
        let after = shown(&site, "moving").await.expect("it is registered");
        assert_eq!(after["url"], url.as_str());

        // A new one.
        let name = format!("new-{n}");
        let document = webhook(&name, &receiver.url(&format!("/ok/new-{n}")), "");
        site.dies(&APPLY, &document, point).await;
        assert_eq!(shown(&site, &name).await.is_some(), stored, "{point}");
        let printed = site.apply(&document).await;
        // Its secret is shown once: by whoever registered it, who may have died before he could.
        assert_eq!(secrets(&printed).len(), usize::from(!stored), "{printed}");
        assert!(shown(&site, &name).await.is_some());
        sent += 1;
        site.publish(&[event("order", &format!("e{sent}"), "{}")])
            .await;
        let path = format!("/ok/new-{n}");
        at_least(&path, 1, WITHIN, || receiver.count(&path)).await;
    }
    let moved = |request: &Received| {
        let path = request.path.trim_start_matches("/ok/");
        path.parse::<usize>().is_ok()
    };
    at_least("requests to the moving one", sent, WITHIN, || {
        receiver.journal(|all| all.iter().filter(|r| moved(r)).count())
    })
    .await;
    let moving: Vec<_> = receiver.all().into_iter().filter(moved).collect();
    assert_eq!(moving.len(), sent, "each event came once");
    moving.iter().for_each(|r| assert_signed(r, &secret));
    assert!(program.stop().await.success());
}

/// The attempt that asks for it is recorded; what follows from it is not done: whoever takes over does it.
async fn a_deactivation_killed_halfway_is_done_by_the_next_owner(engine: Engine) {
    for point in ["dispatch-following", "dispatch-deactivating"] {
        let (receiver, site) = (Receiver::start().await, Site::new(engine).await);
        let documents = [
            // The standard preset: 410 says that the receiver is gone for good.
            webhook("gone", &receiver.url("/status/410/gone"), ""),
            webhook("there", &receiver.url("/ok/there"), ""),
        ];
        site.apply(&documents.concat()).await;
        let mut victim = site
            .start_with(&worker("victim", ALL).dies_at(point, 0))
            .await;
        site.publish(&[event("order", "e1", "{}")]).await;
        let status = victim.ended(WITHIN).await;
        assert!(!status.success(), "{status}");
        if engine == Engine::Kafka {
            // Nobody has done it yet.
            let gone = shown(&site, "gone").await.expect("it is registered");
            assert_eq!(gone["state"], "active", "{gone}");
        }
        let program = site.start_with(&worker("next", ALL)).await;
        let inactive = async || match shown(&site, "gone").await {
            Some(gone) if gone["state"] == "inactive" => Ok(()),
            other => Err(other),
        };
        eventually("the webhook is inactive", WITHIN, inactive).await;
        site.publish(&[event("order", "e2", "{}")]).await;
        at_least("/ok/there", 2, WITHIN, || receiver.count("/ok/there")).await;
        assert_eq!(
            receiver.count("/status/410"),
            1,
            "its attempt was recorded, and what is gone gets nothing more"
        );
        assert!(program.stop().await.success());
    }
}
