//! The key that secrets are sealed with is replaced while everything runs, and no receiver notices.

use std::time::Duration;

use hookline_tests::program::{Engine, Program, Site, Start, new_key};
use hookline_tests::receiver::Receiver;
use hookline_tests::wait::{at_least, eventually};

use super::{assert_each_once, assert_signed, event, secrets, webhook};

both_engines!(an_old_key_goes_and_secrets_sign_the_same,);

const WITHIN: Duration = Duration::from_secs(60);
const WEBHOOKS: usize = 5;
const UNDER_OLD: &str = "hookline_registry_secrets_under_old_keys";

/// The processes of the site: two that take turns on a broker, one on the embedded engine.
async fn start(site: &Site) -> Vec<Program> {
    let names: &[&str] = match site.engine() {
        Engine::Kafka => &["a", "b"],
        Engine::Embedded => &["a"],
    };
    let mut programs = Vec::new();
    for name in names {
        programs.push(site.start_with(&Start::default().named(name)).await);
    }
    programs
}

/// One after the other is stopped and started again, with the keys that are in the file by then.
async fn restart(site: &Site, programs: Vec<Program>) -> Vec<Program> {
    let mut again = Vec::new();
    for program in programs {
        let name = program.name().to_owned();
        assert!(program.stop().await.success());
        again.push(site.start_with(&Start::default().named(&name)).await);
    }
    again
}

/// Publishes the event of a round and sees it arrive at every webhook, signed with the secret that its owner was shown.
async fn assert_all_sign(site: &Site, receiver: &Receiver, shown: &[String], round: usize) {
    site.publish(&[event("order", &format!("e{round}"), "{}")])
        .await;
    for (n, secret) in shown.iter().enumerate() {
        let path = format!("/ok/w{n}");
        at_least(&path, round, WITHIN, || receiver.count(&path)).await;
        for request in receiver.at(&path) {
            assert_signed(&request, secret);
            assert_eq!(request.header("authorization"), Some("Bearer hush"));
        }
    }
}

async fn under_old_keys(programs: &[Program], expected: impl Fn(f64) -> bool) {
    let check = async || {
        let mut seen = Vec::new();
        for program in programs {
            seen.push(program.metric(UNDER_OLD, "").await);
        }
        match seen.iter().all(|count| expected(*count)) {
            true => Ok(()),
            false => Err(seen),
        }
    };
    eventually(
        "records are under the keys that are expected",
        WITHIN,
        check,
    )
    .await;
}

async fn an_old_key_goes_and_secrets_sign_the_same(engine: Engine) {
    let receiver = Receiver::start().await;
    let site = Site::new(engine).await;
    let old = site.keys();
    let new = new_key();
    let document = |n| {
        let url = receiver.url(&format!("/ok/w{n}"));
        webhook(&format!("w{n}"), &url, "connector: login")
    };
    let documents: String = (0..WEBHOOKS).map(document).collect();
    let connector = "kind: Connector\nproject: shop\nname: login\ntype: bearer\ntoken: hush\n";
    let shown = secrets(&site.apply(&(documents + connector)).await);
    assert_eq!(shown.len(), WEBHOOKS);
    let programs = start(&site).await;
    assert_all_sign(&site, &receiver, &shown, 1).await;
    under_old_keys(&programs, |count| count == 0.0).await;

    // First every process gets to know the new key, then it becomes the first one.
    site.seal_with(&[&old, &new]);
    let programs = restart(&site, programs).await;
    assert_all_sign(&site, &receiver, &shown, 2).await;
    site.seal_with(&[&new, &old]);
    let programs = restart(&site, programs).await;
    assert_all_sign(&site, &receiver, &shown, 3).await;
    under_old_keys(&programs, |count| count == 0.0).await;
    let said = |program: &Program| {
        let line = "all secrets are sealed with the first secrets key; the others can be removed";
        program.log().contains(line)
    };
    let check = async || match programs.iter().any(said) {
        true => Ok(()),
        false => Err("nobody"),
    };
    eventually("somebody says that it is done", WITHIN, check).await;

    // The old key goes. What was sealed with it signs as before.
    site.seal_with(&[&new]);
    let programs = restart(&site, programs).await;
    assert_all_sign(&site, &receiver, &shown, 4).await;
    for n in 0..WEBHOOKS {
        assert_each_once(&receiver.at(&format!("/ok/w{n}")), 4);
    }

    // Nobody comes back with the old one.
    site.seal_with(&[&old]);
    let refused = site
        .run(&["get", "webhooks", "--project", "shop"], "")
        .await;
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    let told = String::from_utf8_lossy(&refused.stderr);
    assert!(told.contains("HOOKLINE_SECRETS_KEY"), "{told}");
    for program in programs {
        assert!(program.stop().await.success());
    }
}
