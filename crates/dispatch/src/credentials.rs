//! Credentials on a request: the one place where a connector's secret is used. They are marked, so that nothing that shows a request shows them.

use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use hookline_model::outcome::ErrorClass;
use hookline_model::resource::{ConnectorType, KeyPlace, Secret, Webhook};
use hookline_registry::ConnectorEntry;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::guard::{Target, UrlPolicy};
use crate::request::Unbuilt;
use crate::transport::Identity;

/// The credentials that a webhook's requests carry.
#[derive(Clone, Copy)]
pub(crate) struct Credentials<'a>(Option<(&'a ConnectorType, &'a Secret)>);

impl<'a> Credentials<'a> {
    /// Those of the webhook's connector, `connector` being the one of that name that there is, and `token` what was had with it.
    pub(crate) fn of(
        settings: &Webhook,
        connector: Option<&'a ConnectorEntry>,
        token: Option<&'a Secret>,
    ) -> Result<Self, Unbuilt> {
        let Some(name) = &settings.connector else {
            return Ok(Self(None));
        };
        let Some(connector) = connector else {
            return Err(failed(format!("there is no connector {name}")));
        };
        let of = &connector.settings.of;
        // What an OAuth2 client's secret is good for is the token; the endpoint never sees it.
        if let ConnectorType::OAuth2(_) = of {
            let token = token.ok_or_else(|| failed(format!("connector {name}: there is no token")));
            return Ok(Self(Some((of, token?))));
        }
        let secret = connector.secret();
        let secret = secret.map_err(|error| failed(format!("connector {name}: {error}")))?;
        Ok(Self(Some((of, secret))))
    }

    /// Who we are in TLS.
    pub(crate) fn identity(&self) -> Option<Identity> {
        let Some((ConnectorType::Mtls { certificate }, private_key)) = self.0 else {
            return None;
        };
        Some(Identity {
            certificate: Arc::clone(certificate),
            private_key: private_key.clone(),
        })
    }

    /// Where to: with the key in the query, where it goes there. The URL as such has been judged already.
    pub(crate) fn target(
        &self,
        urls: &UrlPolicy,
        url: &str,
        plain: Target,
    ) -> Result<Target, Unbuilt> {
        let Some((ConnectorType::ApiKey(KeyPlace::Query(name)), key)) = self.0 else {
            return Ok(plain);
        };
        let pair = url::form_urlencoded::Serializer::new(String::new())
            .append_pair(name, key.expose())
            .finish();
        let joint = match url.split_once('?') {
            None => "?",
            Some((_, "")) => "",
            Some(_) => "&",
        };
        // There is no fragment: the guard refuses URLs that have one. What it says of this one would repeat the key.
        let with_key = urls.check(&format!("{url}{joint}{pair}"));
        let with_key = with_key
            .map_err(|_| failed("the connector's key makes a URL that cannot be used".into()))?;
        Ok(with_key.shown_as(&plain))
    }

    /// Puts them into the headers, in the place of what the webhook itself has there.
    pub(crate) fn put(&self, headers: &mut HeaderMap) -> Result<(), Unbuilt> {
        let (name, value) = match self.0 {
            None
            | Some((ConnectorType::ApiKey(KeyPlace::Query(_)) | ConnectorType::Mtls { .. }, _)) => {
                return Ok(());
            }
            Some((ConnectorType::Basic { username }, password)) => {
                let pair = format!("{username}:{}", password.expose());
                let value = format!("Basic {}", BASE64_STANDARD.encode(pair));
                (AUTHORIZATION, value)
            }
            Some((ConnectorType::Bearer | ConnectorType::OAuth2(_), token)) => {
                (AUTHORIZATION, format!("Bearer {}", token.expose()))
            }
            Some((ConnectorType::ApiKey(KeyPlace::Header(name)), key)) => {
                let name = HeaderName::from_bytes(name.as_bytes())
                    .map_err(|_| failed("the connector's header cannot be sent".into()))?;
                (name, key.expose().to_owned())
            }
        };
        let mut value = HeaderValue::from_str(&value)
            .map_err(|_| failed("the connector's secret cannot be sent in a header".into()))?;
        value.set_sensitive(true);
        headers.insert(name, value);
        Ok(())
    }
}

fn failed(why: String) -> Unbuilt {
    (ErrorClass::AuthFailed, why)
}

#[cfg(test)]
mod tests {
    use hookline_model::resource::{ConnectorSpec, Resource, parse_documents};

    use super::*;
    use crate::guard::UrlPolicyConfig;

    fn webhook(connector: &str) -> Webhook {
        let text = format!(
            "kind: Webhook\nproject: shop\nname: crm\nurl: https://crm.example.com/\nevents: ['*']\nconnector: {connector}"
        );
        match parse_documents(&text).expect("valid").remove(0) {
            Resource::Webhook(spec) => spec.settings,
            other => panic!("{other:?}"),
        }
    }

    fn connector(fields: &str) -> ConnectorEntry {
        let text = format!("kind: Connector\nproject: shop\nname: login\n{fields}");
        let spec: Box<ConnectorSpec> = match parse_documents(&text).expect("valid").remove(0) {
            Resource::Connector(spec) => spec,
            other => panic!("{other:?}"),
        };
        ConnectorEntry::unsaved(&spec).expect("it has a secret")
    }

    #[test]
    fn headers_are_put_in_the_place_of_others_and_marked() {
        for (fields, name, value) in [
            (
                "type: basic\nusername: Aladdin\npassword: open sesame",
                "authorization",
                // The example of RFC 7617.
                "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==",
            ),
            ("type: bearer\ntoken: abc", "authorization", "Bearer abc"),
            ("type: api-key\nheader: X-Key\nkey: k 1", "x-key", "k 1"),
        ] {
            let (webhook, connector) = (webhook("login"), connector(fields));
            let mut headers = HeaderMap::new();
            for old in ["a", "b"] {
                let name = HeaderName::from_static(name);
                headers.append(name, HeaderValue::from_static(old));
            }
            let credentials = Credentials::of(&webhook, Some(&connector), None)
                .ok()
                .unwrap();
            credentials.put(&mut headers).unwrap();
            let all: Vec<_> = headers.get_all(name).iter().collect();
            assert_eq!(all, [value]);
            assert!(all[0].is_sensitive());
            assert!(!format!("{headers:?}").contains(value));
        }
    }

    #[test]
    fn a_key_in_the_query_stands_behind_what_is_there() {
        let urls = UrlPolicy::new(UrlPolicyConfig::default()).unwrap();
        let (webhook, connector) = (
            webhook("login"),
            connector("type: api-key\nquery: api_key\nkey: a&b=c d"),
        );
        let credentials = Credentials::of(&webhook, Some(&connector), None)
            .ok()
            .unwrap();
        for (url, path) in [
            ("https://example.com/x", "/x?api_key=a%26b%3Dc+d"),
            ("https://example.com/x?", "/x?api_key=a%26b%3Dc+d"),
            ("https://example.com/x?y=z", "/x?y=z&api_key=a%26b%3Dc+d"),
        ] {
            let plain = urls.check(url).unwrap();
            let target = credentials.target(&urls, url, plain).unwrap();
            assert_eq!(target.path().to_string(), path);
            assert!(!format!("{target} {target:?}").contains("api_key"));
        }
        let mut headers = HeaderMap::new();
        credentials.put(&mut headers).unwrap();
        assert!(headers.is_empty());
    }

    #[test]
    fn without_its_connector_nothing_is_sent() {
        let of = Credentials::of(&webhook("login"), None, None);
        let (class, why) = of.err().expect("refused");
        assert_eq!(class, ErrorClass::AuthFailed);
        assert_eq!(why, "there is no connector login");
        assert!(Credentials::of(&webhook("none"), None, None).is_ok());
    }
}
