//! What only the way out can say of resources: whether URLs may be requested and certificates be used. One judgement for the API and for
//! `hookline apply`; the same is made again before each attempt.

use hookline_dispatch::client::{check_authorities, check_identity};
use hookline_dispatch::guard::UrlPolicy;
use hookline_model::resource::{ConnectorSpec, ConnectorType, FieldError, Webhook};

/// What is wrong with a URL in the field of that name.
pub(crate) fn url(urls: &UrlPolicy, field: &str, url: &str) -> Option<FieldError> {
    let refused = urls.check(url).err()?;
    let message = format!("{} ({})", refused.text, refused.code);
    Some(FieldError::new(field, message))
}

/// What is wrong with the authorities that a webhook trusts.
pub(crate) fn authorities(webhook: &Webhook) -> Option<FieldError> {
    let wrong = check_authorities(webhook.trusted_ca.as_deref()?).err()?;
    Some(FieldError::new("trusted_ca", wrong))
}

/// What is wrong with a webhook, beyond its form.
pub(crate) fn webhook(urls: &UrlPolicy, webhook: &Webhook) -> Vec<FieldError> {
    let url = url(urls, "url", &webhook.url);
    url.into_iter().chain(authorities(webhook)).collect()
}

/// What is wrong with a connector, beyond its form.
pub(crate) fn connector(urls: &UrlPolicy, spec: &ConnectorSpec) -> Option<FieldError> {
    match &spec.of {
        ConnectorType::OAuth2(client) => url(urls, "token_url", &client.token_url),
        ConnectorType::Mtls { certificate } => {
            let wrong = check_identity(certificate, spec.secret.as_ref()?).err()?;
            Some(FieldError::new("private_key", wrong))
        }
        _ => None,
    }
}
