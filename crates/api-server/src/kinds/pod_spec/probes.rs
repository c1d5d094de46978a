//! Probes and lifecycle handlers.

use apimachinery::field::{Error, ErrorList};
use apimachinery::validation;

use crate::kinds::at::At;

const SIGNALS: &str = "SIGABRT SIGALRM SIGBUS SIGCHLD SIGCLD SIGCONT SIGFPE SIGHUP SIGILL SIGINT SIGIO SIGIOT SIGKILL SIGPIPE \
    SIGPOLL SIGPROF SIGPWR SIGQUIT SIGRTMAX SIGRTMAX-1 SIGRTMAX-10 SIGRTMAX-11 SIGRTMAX-12 SIGRTMAX-13 SIGRTMAX-14 SIGRTMAX-2 \
    SIGRTMAX-3 SIGRTMAX-4 SIGRTMAX-5 SIGRTMAX-6 SIGRTMAX-7 SIGRTMAX-8 SIGRTMAX-9 SIGRTMIN SIGRTMIN+1 SIGRTMIN+10 SIGRTMIN+11 \
    SIGRTMIN+12 SIGRTMIN+13 SIGRTMIN+14 SIGRTMIN+15 SIGRTMIN+2 SIGRTMIN+3 SIGRTMIN+4 SIGRTMIN+5 SIGRTMIN+6 SIGRTMIN+7 \
    SIGRTMIN+8 SIGRTMIN+9 SIGSEGV SIGSTKFLT SIGSTOP SIGSYS SIGTERM SIGTRAP SIGTSTP SIGTTIN SIGTTOU SIGURG SIGUSR1 SIGUSR2 \
    SIGVTALRM SIGWINCH SIGXCPU SIGXFSZ";

/// The three probes of a container.
pub(super) fn all(container: &At, e: &mut ErrorList) {
    for member in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let Some(probe) = container.set(member) else { continue };
        handler(&probe, &["exec", "httpGet", "tcpSocket", "grpc"], None, e);
        for number in ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"] {
            probe.get(number).non_negative(e);
        }
        let grace = probe.get("terminationGracePeriodSeconds");
        if grace.is_set() && grace.int() <= 0 {
            grace.invalid(e, "must be greater than 0");
        }
        if member == "readinessProbe" {
            if grace.is_set() {
                grace.invalid(e, "must not be set for readinessProbes");
            }
        } else if probe.get("successThreshold").int() != 1 {
            probe.get("successThreshold").invalid_int(e, "must be 1");
        }
    }
}

pub(super) fn lifecycle(spec: &At, container: &At, e: &mut ErrorList) {
    let Some(lifecycle) = container.set("lifecycle") else { return };
    for member in ["postStart", "preStop"] {
        if let Some(at) = lifecycle.set(member) {
            handler(&at, &["exec", "httpGet", "tcpSocket", "sleep"], spec.value.i64_at(&["terminationGracePeriodSeconds"]), e);
        }
    }
    if let Some(signal) = lifecycle.set("stopSignal") {
        let known: Vec<&str> = match spec.value.str_at(&["os", "name"]) {
            None => return signal.forbid(e, "may not be set for containers with empty `spec.os.name`"),
            Some("windows") => vec!["SIGKILL", "SIGTERM"],
            Some("linux") => SIGNALS.split_whitespace().collect(),
            Some(_) => return,
        };
        signal.one_of(e, &known);
    }
}

fn handler(at: &At, kinds: &[&'static str], grace: Option<i64>, e: &mut ErrorList) {
    let mut found = 0;
    for kind in kinds {
        let Some(action) = at.set(kind) else { continue };
        found += 1;
        if found > 1 {
            action.forbid(e, "may not specify more than 1 handler type");
            continue;
        }
        match *kind {
            "exec" if action.get("command").len() == 0 => action.get("command").require(e, ""),
            "httpGet" => http_get(&action, e),
            "tcpSocket" => action.get("port").port(e),
            "grpc" => action.get("port").check_int(e, validation::is_port_number),
            "sleep" => {
                let seconds = action.get("seconds").int();
                if let Some(grace) = grace.filter(|grace| seconds < 0 || seconds > *grace) {
                    let why = format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
                    e.push(Error::invalid(&action.path(), seconds, why));
                }
            }
            _ => {}
        }
    }
    if found == 0 {
        at.require(e, "must specify a handler type");
    }
}

fn http_get(at: &At, e: &mut ErrorList) {
    at.get("path").required(e);
    at.get("port").port(e);
    at.get("scheme").one_of(e, &["HTTP", "HTTPS"]);
    for header in at.get("httpHeaders").items() {
        let name = header.get("name").text();
        let why = validation::http_header_name(name);
        e.extend(why.into_iter().map(|why| Error::invalid(&at.get("httpHeaders").path(), name, why)));
    }
}
