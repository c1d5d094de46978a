//! Projected volumes: several sources in one directory.

use apimachinery::field::{Error, ErrorList, Path};
use apimachinery::validation;

use super::volumes::{downward_file, key_to_path, mode, non_reserved};
use crate::kinds::at::At;

/// Paths in the directory, each used once.
struct Paths<'v> {
    seen: Vec<&'v str>,
    at: Path,
}

impl<'v> Paths<'v> {
    /// `named` is what the error shows.
    fn add(&mut self, path: &'v str, named: &str, e: &mut ErrorList) {
        if path.is_empty() {
            return;
        }
        if self.seen.contains(&path) {
            e.push(Error::invalid(&self.at, named, "conflicting duplicate paths"));
        } else {
            self.seen.push(path);
        }
    }
}

pub(super) fn projected(at: &At, e: &mut ErrorList) {
    mode(&at.get("defaultMode"), e);
    let mut paths = Paths { seen: Vec::new(), at: at.path() };
    for source in at.get("sources").items() {
        let kinds = ["secret", "configMap", "downwardAPI", "serviceAccountToken", "clusterTrustBundle", "podCertificate"];
        for member in ["secret", "configMap"] {
            let Some(keyed) = source.set(member) else { continue };
            keyed.get("name").required(e);
            for item in keyed.get("items").items() {
                key_to_path(&item, e);
                paths.add(item.get("path").text(), keyed.get("name").text(), e);
            }
        }
        if let Some(downward) = source.set("downwardAPI") {
            for file in downward.get("items").items() {
                downward_file(&downward.with(file.value), e);
                paths.add(file.get("path").text(), file.get("path").text(), e);
            }
        }
        if let Some(token) = source.set("serviceAccountToken") {
            service_account_token(at, &token, e);
        }
        if let Some(bundle) = source.set("clusterTrustBundle") {
            trust_bundle(&bundle, e);
            paths.add(bundle.get("path").text(), bundle.get("path").text(), e);
        }
        if kinds.iter().filter(|kind| source.set(kind).is_some()).count() > 1 {
            source.forbid(e, "may not specify more than 1 volume type per source");
        }
    }
}

fn service_account_token(projected: &At, token: &At, e: &mut ErrorList) {
    let seconds = token.get("expirationSeconds");
    if seconds.int() < 600 {
        seconds.invalid(e, "may not specify a duration less than 10 minutes");
    }
    if seconds.int() > 1 << 32 {
        seconds.invalid(e, "may not specify a duration larger than 2^32 seconds");
    }
    // Upstream's path is that of the volume, not of the source.
    let path = projected.get("path");
    let path = path.with(token.get("path").value);
    if path.required(e) {
        non_reserved(&path, e);
    }
}

fn trust_bundle(at: &At, e: &mut ErrorList) {
    let (name, signer) = (at.get("name"), at.get("signerName"));
    match (name.is_set(), signer.is_set()) {
        (true, true) => at.invalid(e, "only one of name and signerName may be used"),
        (true, false) => {
            if name.text().is_empty() {
                name.require(e, "must be a valid object name");
            }
            let last = name.text().rsplit(':').next().unwrap_or_default();
            let why = validation::name_is_dns_subdomain(last, false);
            let why = why.into_iter().map(|why| format!("not a valid clustertrustbundlename: {why}"));
            e.extend(why.map(|why| Error::invalid(&name.path(), name.text(), why)));
            if at.set("labelSelector").is_some() {
                at.get("labelSelector").invalid_selector(e, "labelSelector must be unset if name is specified");
            }
        }
        (false, true) => {
            if signer.text().is_empty() {
                signer.require(e, "must be a valid signer name");
            }
            crate::kinds::certificates::signer_name(&signer, e);
            at.get("labelSelector").label_selector(e);
        }
        (false, false) => at.require(e, "either name or signerName must be specified"),
    }
    at.get("path").required(e);
    non_reserved(&at.get("path"), e);
}
