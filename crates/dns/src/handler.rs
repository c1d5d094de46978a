//! One request, one response.

use std::sync::Arc;

use hickory_proto::op::{Edns, Metadata, OpCode, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, Record, RecordType};
use hickory_server::net::runtime::Time;
use hickory_server::server::{Request, RequestHandler, ResponseHandler, ResponseInfo};
use hickory_server::zone_handler::MessageResponseBuilder;

use crate::forward::Forwarder;
use crate::zone::{Answer, SharedZone};

/// Larger UDP answers are truncated, and clients come again by TCP (DNS flag day 2020: what passes without fragments).
pub(crate) const UDP_PAYLOAD_MAX: u16 = 1232;
/// ExternalName to ExternalName to ...
const ALIASES_MAX: usize = 8;

/// Answers from the zone, or asks the forwarder.
#[derive(Clone)]
pub(crate) struct Handler {
    zone: SharedZone,
    forwarder: Arc<Forwarder>,
}

/// The sections of a response.
struct Reply {
    code: ResponseCode,
    authoritative: bool,
    answers: Vec<Record>,
    authorities: Vec<Record>,
    additionals: Vec<Record>,
}

impl Reply {
    fn error(code: ResponseCode) -> Self {
        Self { code, authoritative: false, answers: Vec::new(), authorities: Vec::new(), additionals: Vec::new() }
    }
}

impl Handler {
    pub(crate) fn new(zone: SharedZone, forwarder: Forwarder) -> Self {
        Self { zone, forwarder: Arc::new(forwarder) }
    }

    async fn reply(&self, request: &Request) -> Reply {
        if request.version() > 0 {
            return Reply::error(ResponseCode::BADVERS);
        }
        if request.metadata.op_code != OpCode::Query {
            return Reply::error(ResponseCode::NotImp);
        }
        let Ok(info) = request.request_info() else { return Reply::error(ResponseCode::FormErr) };
        if !matches!(info.query.query_class(), DNSClass::IN | DNSClass::ANY) {
            return Reply::error(ResponseCode::Refused);
        }
        let query_type = info.query.query_type();
        if matches!(query_type, RecordType::AXFR | RecordType::IXFR) {
            return Reply::error(ResponseCode::Refused);
        }
        // As the client wrote it: some check that upper and lower case come back (0x20).
        self.resolve(info.query.original().name().clone(), query_type).await
    }

    async fn resolve(&self, name: Name, query_type: RecordType) -> Reply {
        let mut name = name;
        let mut answers = Vec::new();
        for _ in 0..ALIASES_MAX {
            let (answer, soa) = {
                let zone = self.zone.read();
                (zone.lookup(&name, query_type), zone.soa())
            };
            let (code, more, authorities, additionals) = match answer {
                Answer::Records { answers, additionals } => (ResponseCode::NoError, answers, Vec::new(), additionals),
                Answer::NoData => (ResponseCode::NoError, Vec::new(), vec![soa], Vec::new()),
                Answer::NxDomain => (ResponseCode::NXDomain, Vec::new(), vec![soa], Vec::new()),
                Answer::Alias { record, target } => {
                    answers.push(*record);
                    if query_type == RecordType::CNAME {
                        (ResponseCode::NoError, Vec::new(), Vec::new(), Vec::new())
                    } else {
                        name = target;
                        continue;
                    }
                }
                Answer::NotOurs => return self.forward(name, query_type, answers).await,
            };
            answers.extend(more);
            return Reply { code, authoritative: true, answers, authorities, additionals };
        }
        Reply::error(ResponseCode::ServFail)
    }

    /// `before` are the aliases of ours that led to this name.
    async fn forward(&self, name: Name, query_type: RecordType, before: Vec<Record>) -> Reply {
        let forwarded = self.forwarder.lookup(name, query_type).await;
        if before.is_empty() {
            return Reply {
                code: forwarded.code,
                authoritative: false,
                answers: forwarded.answers,
                authorities: forwarded.authorities,
                additionals: Vec::new(),
            };
        }
        // The alias itself is known, whatever became of its target.
        let code = if forwarded.code == ResponseCode::ServFail { ResponseCode::NoError } else { forwarded.code };
        let answers = before.into_iter().chain(forwarded.answers).collect();
        Reply { code, authoritative: true, answers, authorities: forwarded.authorities, additionals: Vec::new() }
    }
}

#[async_trait::async_trait]
impl RequestHandler for Handler {
    async fn handle_request<R: ResponseHandler, T: Time>(&self, request: &Request, mut response: R) -> ResponseInfo {
        let reply = self.reply(request).await;
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.response_code = reply.code;
        metadata.authoritative = reply.authoritative;
        metadata.recursion_available = true;
        let edns = request.edns.as_ref().map(|asked| {
            let mut edns = Edns::new();
            edns.set_version(0).set_max_payload(asked.max_payload().clamp(512, UDP_PAYLOAD_MAX));
            edns
        });
        let mut builder = MessageResponseBuilder::from_message_request(request);
        if let Some(edns) = &edns {
            builder.edns(edns);
        }
        let message =
            builder.build(metadata, reply.answers.iter(), reply.authorities.iter(), std::iter::empty(), reply.additionals.iter());
        match response.send_response(message).await {
            Ok(info) => info,
            Err(error) => {
                tracing::debug!(%error, "cannot send a DNS response");
                let header = hickory_proto::op::Header { metadata, counts: Default::default() };
                ResponseInfo::from(header)
            }
        }
    }
}
