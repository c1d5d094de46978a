//! What a certificate request asks for, and what each of Kubernetes' signers signs (upstream's `pkg/apis/certificates/helpers.go`).

use std::collections::BTreeSet;
use std::net::IpAddr;

use serving::Names;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::pem::Pem;
use x509_parser::prelude::FromDer;

/// A request whose signature proves that the asker has the key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) common_name: String,
    pub(super) organizations: Vec<String>,
    pub(super) dns_names: Vec<String>,
    pub(super) emails: Vec<String>,
    pub(super) uris: Vec<String>,
    pub(super) ips: Vec<IpAddr>,
    /// The subject as encoded.
    pub(super) subject: Vec<u8>,
    /// The SubjectPublicKeyInfo as encoded.
    pub(super) public_key: Vec<u8>,
}

/// Parses PEM; the texts are upstream's where it has one.
pub(super) fn parse(pem: &[u8]) -> Result<Request, String> {
    let block = Pem::iter_from_buffer(pem).next().and_then(Result::ok);
    let Some(block) = block.filter(|block| block.label == "CERTIFICATE REQUEST") else {
        return Err("PEM block type must be CERTIFICATE REQUEST".to_owned());
    };
    let (_, parsed) = X509CertificationRequest::from_der(&block.contents).map_err(|error| error.to_string())?;
    let unverified = |error| format!("unable to verify certificate request signature: {error}");
    parsed.verify_signature().map_err(unverified)?;
    let info = &parsed.certification_request_info;
    let Names { common_name, organizations } = Names::of(&info.subject);
    let mut request = Request {
        common_name,
        organizations,
        subject: info.subject.as_raw().to_vec(),
        public_key: info.subject_pki.raw.to_vec(),
        ..Request::default()
    };
    for extension in parsed.requested_extensions().into_iter().flatten() {
        let ParsedExtension::SubjectAlternativeName(names) = extension else { continue };
        for name in &names.general_names {
            match name {
                GeneralName::DNSName(name) => request.dns_names.push((*name).to_owned()),
                GeneralName::RFC822Name(name) => request.emails.push((*name).to_owned()),
                GeneralName::URI(name) => request.uris.push((*name).to_owned()),
                GeneralName::IPAddress(bytes) => request.ips.push(ip(bytes)?),
                _ => {}
            }
        }
    }
    Ok(request)
}

fn ip(bytes: &[u8]) -> Result<IpAddr, String> {
    let four = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    let sixteen = || <[u8; 16]>::try_from(bytes).map(IpAddr::from);
    four.or_else(|_| sixteen()).map_err(|_| "x509: cannot parse IP address".to_owned())
}

/// The name of a kubelet's client certificates' signer.
pub(super) const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
pub(super) const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";
pub(super) const API_CLIENT: &str = "kubernetes.io/kube-apiserver-client";
pub(super) const LEGACY_UNKNOWN: &str = "kubernetes.io/legacy-unknown";

/// Whether a signer signs this; the texts are upstream's.
pub(super) fn validate(signer: &str, request: &Request, usages: &[String]) -> Result<(), String> {
    match signer {
        KUBELET_CLIENT => kubelet_client(request, usages),
        KUBELET_SERVING => kubelet_serving(request, usages),
        API_CLIENT => api_client(usages),
        // Without rules since before there were any.
        _ => Ok(()),
    }
}

fn refuse_if(condition: bool, why: &str) -> Result<(), String> {
    if condition { Err(why.to_owned()) } else { Ok(()) }
}

/// With or without key encipherment, which only RSA keys can do.
fn exact_usages(usages: &[String], purpose: &str) -> Result<(), String> {
    let asked: BTreeSet<&str> = usages.iter().map(String::as_str).collect();
    let mut wanted = BTreeSet::from(["digital signature", purpose]);
    let without = asked == wanted;
    wanted.insert("key encipherment");
    if without || asked == wanted {
        return Ok(());
    }
    Err(format!("usages did not match [{}]", wanted.into_iter().collect::<Vec<_>>().join(" ")))
}

fn of_node(request: &Request) -> Result<(), String> {
    refuse_if(!request.common_name.starts_with("system:node:"), "subject common name does not begin with system:node:")
}

pub(super) fn kubelet_client(request: &Request, usages: &[String]) -> Result<(), String> {
    refuse_if(request.organizations != ["system:nodes"], "subject organization is not system:nodes")?;
    refuse_if(!request.dns_names.is_empty(), "DNS subjectAltNames are not allowed")?;
    refuse_if(!request.emails.is_empty(), "Email subjectAltNames are not allowed")?;
    refuse_if(!request.ips.is_empty(), "IP subjectAltNames are not allowed")?;
    refuse_if(!request.uris.is_empty(), "URI subjectAltNames are not allowed")?;
    of_node(request)?;
    exact_usages(usages, "client auth")
}

fn kubelet_serving(request: &Request, usages: &[String]) -> Result<(), String> {
    refuse_if(request.organizations != ["system:nodes"], "subject organization is not system:nodes")?;
    refuse_if(request.dns_names.is_empty() && request.ips.is_empty(), "DNS or IP subjectAltName is required")?;
    refuse_if(!request.emails.is_empty(), "Email subjectAltNames are not allowed")?;
    refuse_if(!request.uris.is_empty(), "URI subjectAltNames are not allowed")?;
    exact_usages(usages, "server auth")?;
    of_node(request)
}

fn api_client(usages: &[String]) -> Result<(), String> {
    let known = ["digital signature", "key encipherment", "client auth"];
    if let Some(usage) = usages.iter().find(|usage| !known.contains(&usage.as_str())) {
        return Err(format!("invalid usage for client certificate: {usage}"));
    }
    refuse_if(!usages.iter().any(|usage| usage == "client auth"), "missing required usage for client certificate: client auth")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_signers_sign() {
        let node =
            Request { common_name: "system:node:n1".into(), organizations: vec!["system:nodes".into()], ..Request::default() };
        let serving = Request { dns_names: vec!["n1".into()], ..node.clone() };
        let client = &["digital signature", "client auth"][..];
        let server = &["digital signature", "key encipherment", "server auth"][..];
        for (signer, request, usages, expected) in [
            (KUBELET_CLIENT, node.clone(), client, Ok(())),
            (KUBELET_CLIENT, node.clone(), &["digital signature", "key encipherment", "client auth"], Ok(())),
            (KUBELET_CLIENT, node.clone(), server, Err("usages did not match [client auth digital signature key encipherment]")),
            (KUBELET_CLIENT, serving.clone(), client, Err("DNS subjectAltNames are not allowed")),
            (
                KUBELET_CLIENT,
                Request { organizations: vec![], ..node.clone() },
                client,
                Err("subject organization is not system:nodes"),
            ),
            (
                KUBELET_CLIENT,
                Request { common_name: "bob".into(), ..node.clone() },
                client,
                Err("subject common name does not begin with system:node:"),
            ),
            (KUBELET_SERVING, serving.clone(), server, Ok(())),
            (KUBELET_SERVING, node.clone(), server, Err("DNS or IP subjectAltName is required")),
            (KUBELET_SERVING, Request { uris: vec!["u".into()], ..serving }, server, Err("URI subjectAltNames are not allowed")),
            (API_CLIENT, Request::default(), client, Ok(())),
            (API_CLIENT, Request::default(), server, Err("invalid usage for client certificate: server auth")),
            (
                API_CLIENT,
                Request::default(),
                &["digital signature"],
                Err("missing required usage for client certificate: client auth"),
            ),
            (LEGACY_UNKNOWN, Request::default(), server, Ok(())),
        ] {
            let usages: Vec<String> = usages.iter().map(|&usage| usage.to_owned()).collect();
            assert_eq!(validate(signer, &request, &usages), expected.map_err(str::to_owned), "{signer} {request:?} {usages:?}");
        }
    }

    #[test]
    fn requests_are_read() {
        let key = rcgen::KeyPair::generate().expect("a key");
        let mut params = rcgen::CertificateParams::new(vec!["a.example".to_owned(), "10.0.0.1".to_owned()]).expect("names");
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::OrganizationName, "system:nodes");
        params.distinguished_name.push(rcgen::DnType::CommonName, "system:node:n1");
        let pem = params.serialize_request(&key).expect("a request").pem().expect("PEM");
        let request = parse(pem.as_bytes()).expect("parses");
        assert_eq!(
            (request.common_name.as_str(), &request.organizations[..]),
            ("system:node:n1", &["system:nodes".to_owned()][..])
        );
        assert_eq!((request.dns_names, request.ips), (vec!["a.example".to_owned()], vec![IpAddr::from([10, 0, 0, 1])]));
        assert_eq!(parse(b"nothing"), Err("PEM block type must be CERTIFICATE REQUEST".to_owned()));
    }
}
