//! The messages of an exchange between gateways, or with a national consumer.

use jiff::Timestamp;

use super::model::clean;
use super::table::{self, Kind, Row};
use super::{
    AuditRecord, Coded, Dialect, DicomData, Message, Object, Participant, Site, application_server, ehdsi_role, human,
    of_event, point_of_care, purpose, remote,
};
use crate::bounds;
use crate::event::{
    Decision, DocumentObject, Evidence, Intent, Outcome, OutcomeIndicator, PeerFacts, QueryObject, Role, StudyObject,
    Transaction,
};

const HOME_XCA: &str = "urn:ihe:iti:xca:2010:homeCommunityId";
const PARTLY: &str = "not all of what was asked for was delivered";
const HOME: &str = "ihe:homeCommunityID";

/// The messages of an exchange: one, or two when a retrieve partly failed, and the alerts.
pub fn of_exchange(site: &Site, intent: &Intent, decision: &Decision, outcome: &Outcome) -> Vec<AuditRecord> {
    let partly = !outcome.failed_documents.is_empty() || !outcome.failed_studies.is_empty();
    let went = !outcome.documents.is_empty() || !outcome.studies.is_empty();
    let scene = Scene {
        site,
        intent,
        decision,
        indicator: outcome.indicator,
        description: &outcome.description,
        error: &outcome.error_code,
        documents: &outcome.documents,
        studies: &outcome.studies,
        part: (1, 1),
        outcome,
    };
    let mut out = Vec::new();
    if partly {
        if went {
            out.extend(scene.records());
        }
        let whole = outcome.indicator == OutcomeIndicator::Success;
        let description = outcome.description.as_str();
        let failed = Scene {
            indicator: if whole { OutcomeIndicator::Minor } else { outcome.indicator },
            description: if description.is_empty() { PARTLY } else { description },
            documents: &outcome.failed_documents,
            studies: &outcome.failed_studies,
            ..scene
        };
        out.extend(failed.records());
    } else if went || outcome.indicator == OutcomeIndicator::Success {
        out.extend(scene.records());
    } else {
        out.extend(Scene { documents: &decision.documents, studies: &decision.studies, ..scene }.records());
    }
    out.extend(outcome.alerts.iter().map(|event| of_event(site, event, &intent.exchange_id, Timestamp::now())));
    out
}

/// One message in the making.
#[derive(Clone, Copy)]
struct Scene<'a> {
    site: &'a Site,
    intent: &'a Intent,
    decision: &'a Decision,
    indicator: OutcomeIndicator,
    description: &'a str,
    error: &'a str,
    documents: &'a [DocumentObject],
    studies: &'a [StudyObject],
    /// Which of how many messages this is.
    part: (usize, usize),
    outcome: &'a Outcome,
}

/// What the documents or studies of one message take, bytes; a longer list goes into several messages.
const LISTED: usize = 256 << 10;
/// A query that stands in the message of a list, bytes.
const QUERY_BESIDE: usize = 16 << 10;
/// What an object takes beside its own texts, bytes.
const OBJECT: usize = 1 << 10;
/// Class codes that stand beside the query that holds all of them, bytes.
const CLASS_CODES: usize = 8 << 10;
/// SOP classes of a study, of which a study has a few; the rest is one number.
const SOP_CLASSES: usize = 64;

impl Scene<'_> {
    /// One message, or several where many documents or studies are its objects.
    fn records(&self) -> Vec<AuditRecord> {
        let documents = portions(self.documents, |d| self.weight([&d.unique_id, &d.repository, &d.home].into_iter()));
        let pieces = pieces(self.studies);
        let studies = portions(&pieces, |s| {
            let own = [&s.study, &s.repository, &s.home, &s.accession].into_iter();
            let series = s.series.iter().map(|uid| 128 + uid.len() * 2).sum::<usize>();
            self.weight(own) + series + s.lost.iter().map(|uid| lost_weight(uid)).sum::<usize>()
        });
        let both = documents
            .into_iter()
            .map(|d| (d, Default::default()))
            .chain(studies.into_iter().map(|s| (<&[_]>::default(), s)));
        let mut both: Vec<(&[DocumentObject], &[StudyObject])> = both.collect();
        if both.len() <= 1 {
            both = vec![(self.documents, pieces.as_slice())];
        }
        // A long query beside a list has a message of its own, the first.
        let listed = !(self.documents.is_empty() && self.studies.is_empty());
        if listed && self.decision.query.as_ref().is_some_and(|query| query.bytes.len() > QUERY_BESIDE) {
            both.insert(0, Default::default());
        }
        let all = both.len();
        let scene = |(index, (documents, studies))| Scene { documents, studies, part: (index + 1, all), ..*self };
        both.into_iter().enumerate().map(scene).map(|scene| scene.record()).collect()
    }

    /// What an object takes about.
    fn weight<'t>(&self, texts: impl Iterator<Item = &'t String>) -> usize {
        OBJECT + 2 * self.message_id().len() + texts.map(|text| 2 * bounds::written(text)).sum::<usize>()
    }

    fn transaction(&self) -> Transaction {
        self.decision.transaction.unwrap_or(self.intent.transaction)
    }

    fn row(&self, dialect: Dialect) -> Row {
        table::row(self.transaction(), self.intent.role, dialect, self.site.imaging)
    }

    /// What was asked; once is enough where the list goes on in further messages.
    fn asked(&self) -> Option<&QueryObject> {
        self.decision.query.as_ref().filter(|_| self.part.0 == 1)
    }

    fn record(&self) -> AuditRecord {
        let user = self.decision.user.clone().unwrap_or_default();
        AuditRecord {
            event_time_us: self.intent.began.as_microsecond(),
            xml: self.ihe().to_xml(Dialect::Ihe),
            ehdsi: self.site.ehdsi.then(|| self.ehdsi().to_xml(Dialect::Ehdsi)),
            exchange_id: self.intent.exchange_id.clone(),
            transaction: table::code(self.transaction()).to_owned(),
            role: if self.intent.role == Role::Initiator { "initiator" } else { "responder" }.to_owned(),
            outcome: self.indicator.code(),
            patient: clean(self.decision.patient.as_deref().unwrap_or_default()),
            user: clean(&user.user_name),
            organisation: clean(&user.organisation),
            country: clean(&self.intent.peer.country),
            purpose: clean(&self.decision.purpose),
            studies: self.studies.iter().map(|s| clean(&s.study)).collect(),
        }
    }

    fn message(&self, row: Row, event: Coded, participants: Vec<Participant>, objects: Vec<Object>) -> Message {
        Message {
            event,
            action: row.action.to_owned(),
            at: self.intent.began,
            outcome: self.indicator.code(),
            types: vec![Coded::new(row.code, "IHE Transactions", row.text).shown(row.display)],
            description: self.description.to_owned(),
            purposes: purpose(&self.decision.purpose).into_iter().collect(),
            participants,
            enterprise_site: self.site.enterprise_site.clone(),
            source: self.site.source.clone(),
            source_types: vec![application_server()],
            objects,
        }
    }

    /// Strict: source, professional, organisation, destination.
    fn ihe(&self) -> Message {
        let row = self.row(Dialect::Ihe);
        let own = Participant {
            user_id: self.intent.own_endpoint.clone(),
            alternative: std::process::id().to_string(),
            address: self.intent.own_address.clone(),
            ..Participant::default()
        };
        let (initiator, responder) = self.sides(own, remote(&self.peer()));
        // What is asked comes from the initiator, what is retrieved from the responder.
        let retrieved = matches!(row.kind, Kind::Documents | Kind::Images);
        let (mut source, mut destination) = if retrieved { (responder, initiator) } else { (initiator, responder) };
        source.roles.insert(0, Coded::new("110153", "DCM", "Source Role ID"));
        destination.roles.insert(0, Coded::new("110152", "DCM", "Destination Role ID"));
        let user = self.decision.user.as_ref();
        let participants = std::iter::once(source)
            .chain(user.map(human))
            .chain(user.and_then(|u| point_of_care(&u.organisation)))
            .chain([destination])
            .collect();

        // ITI-55: the patient stands in the responder's message only.
        let patient = self.decision.patient.as_ref();
        let patient =
            patient.filter(|_| self.transaction() != Transaction::Iti55 || self.intent.role == Role::Responder);
        let mut objects: Vec<Object> = patient.map(|cx| Object::patient(cx, "RFC-3881")).into_iter().collect();
        objects.extend(self.asked().map(|query| {
            let id_type = Coded::new(row.code, "IHE Transactions", row.text);
            let home = if row.kind == Kind::PatientQuery { HOME } else { HOME_XCA };
            let object = self.query(query, Object::new("2", "24", &query.id, id_type), row);
            let object = self.shared(object).detail(home, self.community());
            object.detail("ncp:terminology-snapshot", &self.outcome.snapshot)
        }));
        objects.extend(self.documents.iter().map(|document| {
            let id_type = Coded::new("9", "RFC-3881", "Report Number");
            document_details(self.shared(Object::new("2", "3", &document.unique_id, id_type)), document)
        }));
        objects.extend(self.studies.iter().map(|study| self.study(study, row)));
        let exchange = exchange_object(&self.intent.exchange_id);
        let exchange = exchange.detail("ncp:community", &self.intent.peer.home_community_id);
        let exchange = self.message_ids().fold(exchange, |exchange, id| exchange.detail("wsa:MessageID", id));
        let exchange = exchange.detail("ncp:part", &self.told_part());
        objects.push(exchange.detail("ncp:repeat", if self.decision.repeat { "true" } else { "" }));
        if !self.intent.trace.is_empty() {
            let id_type = Coded::new("traceparent", "w3c", "traceparent");
            objects.push(Object::new("4", "26", &self.intent.trace, id_type));
        }
        self.message(row, Coded::new(row.event.0, "DCM", row.event.1), participants, objects)
    }

    /// As OpenNCP writes it: point of care, professional, service consumer, service provider. Where OpenNCP has a
    /// literal we have the truth: the professional's role is a second code beside the one that receivers look for, and
    /// addresses are those of the connection.
    fn ehdsi(&self) -> Message {
        let row = self.row(Dialect::Ehdsi);
        let of_role = if self.intent.role == Role::Initiator { &self.site.client } else { &self.site.node };
        let names = [of_role, &self.site.node, &self.site.source];
        let own_name = names.into_iter().find(|name| !name.is_empty()).unwrap_or(&self.site.source);
        let own = Participant {
            user_id: own_name.clone(),
            alternative: own_name.clone(),
            address: self.intent.own_address.clone(),
            ..Participant::default()
        };
        let peer = &self.peer();
        let theirs = Participant {
            alternative: peer.certificate_name.clone(),
            ..remote(&crate::PeerFacts { endpoint: String::new(), ..peer.clone() })
        };
        let (consumer, provider) = self.sides(own, theirs);
        let user = self.decision.user.as_ref();
        let care = user.and_then(|u| point_of_care(&u.organisation)).map(|care| Participant {
            alternative: care.user_id.clone(),
            address: consumer.address.clone(),
            roles: vec![Coded::new("110152", "DCM", "1.3.6.1.4.1.12559.11.10.1.3.2.2.2")],
            ..care
        });
        let professional = user.map(human).map(|mut professional| {
            professional.requestor = false;
            professional.roles.insert(0, Coded::new("110153", "DCM", "Source Role ID"));
            professional
        });
        let participants = care.into_iter().chain(professional).chain([consumer, provider]).collect();

        let patient = self.decision.patient.as_ref().map(|cx| Object::patient(cx, "DCM"));
        let mut objects: Vec<Object> = patient.into_iter().collect();
        if self.indicator != OutcomeIndicator::Success && !self.error.is_empty() {
            let id_type = Coded::new("9", "eHealth DSI Security", "Error Code");
            objects.push(Object::new("2", "3", self.error, id_type).detail("errormsg", self.description));
        }
        let home = &peer.home_community_id;
        objects.extend(self.asked().map(|query| {
            let id = if row.kind == Kind::PatientQuery { self.community() } else { self.message_id() };
            let id = if id.is_empty() { &query.id } else { id };
            let object = Object::new("2", "24", id, Coded::new(row.code, "IHE Transactions", row.text).shown(row.text));
            let object = self.query(query, object, row).detail(HOME, self.community());
            object.detail("ncp:terminology-snapshot", &self.outcome.snapshot)
        }));
        if matches!(row.kind, Kind::Documents | Kind::Images) {
            let id_type = Coded::new(row.code, "IHE Transactions", row.text).shown(row.text);
            objects.push(Object::new("2", "3", self.message_id(), id_type).detail(HOME, self.community()));
        }
        objects.extend(self.documents.iter().map(|document| {
            let id_type = Coded::new("12", "DCM", "Cross Gateway Retrieve").shown("Cross Gateway Retrieve");
            document_details(Object::new("2", "4", &document.unique_id, id_type), document)
        }));
        objects.extend(self.studies.iter().map(|study| self.study(study, row)));
        // Once is enough where the list goes on in further messages.
        let first = self.part.0 == 1;
        let came =
            Evidence { message_id: self.decision.message_id.clone(), header: self.decision.request_header.clone() };
        let requests = std::iter::once(&came).filter(|m| !m.message_id.is_empty()).chain(&self.outcome.requests);
        let requests = requests.map(|message| (message, "req", "Request Message"));
        let responses = self.outcome.responses.iter().map(|message| (message, "rsp", "Response Message"));
        let mut left = bounds::EVIDENCE;
        objects.extend(requests.chain(responses).filter(|_| first).filter_map(|(message, code, text)| {
            let of_id = OBJECT + bounds::written(&message.message_id);
            left = left.checked_sub(of_id)?;
            let header = left.checked_sub(message.header.len());
            left = header.unwrap_or(left);
            Some(evidence(message, code, text, header.is_some()))
        }));
        if objects.is_empty() {
            let id_type = Coded::new("12", "DCM", "URI");
            objects.push(Object::new("2", "4", &self.intent.exchange_id, id_type));
        }
        if let Some(first) = objects.first_mut() {
            let told = std::mem::take(first);
            *first = told
                .detail("ncp:exchange-id", &self.intent.exchange_id)
                .detail("ncp:part", &self.told_part())
                .detail("ncp:community", home)
                .detail("traceparent", &self.intent.trace);
        }
        let event = Coded::new(row.event.0, "DCM", row.event.1).shown(row.text);
        self.message(row, event, participants, objects)
    }

    /// The initiator and the responder of the two, with the roles of the eHealth DSI.
    fn sides(&self, ours: Participant, theirs: Participant) -> (Participant, Participant) {
        let (mut initiator, mut responder) = match self.intent.role {
            Role::Initiator => (ours, theirs),
            Role::Responder => (theirs, ours),
        };
        initiator.requestor = true;
        initiator.roles.push(ehdsi_role("ServiceConsumer", "Service Consumer"));
        responder.roles.push(ehdsi_role("ServiceProvider", "Service Provider"));
        (initiator, responder)
    }

    fn query(&self, query: &QueryObject, object: Object, row: Row) -> Object {
        let object = Object { query: Some(query.bytes.clone()), ..object };
        let object = if row.kind == Kind::Query { object.detail("QueryEncoding", "UTF-8") } else { object };
        let mut left = CLASS_CODES;
        let mut fits = |code: &&String| {
            let rest = left.checked_sub(code.len() + 64);
            left = rest.unwrap_or(0);
            rest.is_some()
        };
        let codes: Vec<&String> = query.class_codes.iter().take_while(|code| fits(code)).collect();
        let more = query.class_codes.len() - codes.len();
        let object = codes.into_iter().fold(object, |object, code| object.detail("ncp:class-code", code));
        // The query beside it has them all.
        object.detail("ncp:class-codes-more", &if more > 0 { more.to_string() } else { String::new() })
    }

    /// `2/3`: the second of three messages; empty where there is one.
    fn told_part(&self) -> String {
        let (part, all) = self.part;
        if all > 1 { format!("{part}/{all}") } else { String::new() }
    }

    /// The other end, with the certificate that it showed.
    fn peer(&self) -> PeerFacts {
        let mut peer = self.intent.peer.clone();
        if peer.certificate_name.is_empty() {
            peer.certificate_name.clone_from(&self.outcome.peer_certificate);
        }
        peer
    }

    /// The community that was asked: ours where we answer.
    fn community(&self) -> &str {
        match self.intent.role {
            Role::Responder if !self.site.home.is_empty() => &self.site.home,
            _ => &self.intent.peer.home_community_id,
        }
    }

    /// MessageID of the request that came; where none did, of each that was sent. They stand on the trail of the other
    /// country too, so that two countries can compare theirs.
    fn message_ids(&self) -> impl Iterator<Item = &str> {
        let came = Some(self.decision.message_id.as_str()).filter(|id| !id.is_empty());
        let sent = self.outcome.requests.iter().filter(move |_| came.is_none());
        came.into_iter().chain(sent.map(|message| message.message_id.as_str()))
    }

    /// The first of them.
    fn message_id(&self) -> &str {
        self.message_ids().next().unwrap_or_default()
    }

    /// The exchange that the object is of, as the other side may know it too.
    fn shared(&self, object: Object) -> Object {
        object.detail("ncp:exchange-id", &self.intent.exchange_id).detail("wsa:MessageID", self.message_id())
    }

    fn study(&self, study: &StudyObject, row: Row) -> Object {
        let id_type = Coded::new("110180", "DCM", "Study Instance UID");
        let object = self.shared(Object::new("2", "3", &study.study, id_type));
        let home = if row.code == "RAD-69" { HOME } else { HOME_XCA };
        let object = study.series.iter().fold(object, |object, uid| object.detail("Series Instance Unique Id", uid));
        let object = object
            .detail("Repository Unique Id", &study.repository)
            .detail(home, if study.home.is_empty() { self.community() } else { &study.home })
            .detail("NumberOfInstances", &study.instances.to_string())
            .detail("ncp:bytes", &study.bytes.to_string())
            .detail("ncp:sha-256", &study.sha256)
            .detail("ncp:lost-more", &study.lost_more)
            .detail("ncp:manifest-odd", &study.odd);
        // What passed without saying of what class it is, is counted by itself.
        let named: u64 = study.sop_classes.iter().map(|(_, count)| count).sum();
        let unnamed = study.instances.checked_sub(named).filter(|rest| *rest > 0 || study.sop_classes.is_empty());
        let counted = study.sop_classes.iter().cloned().chain(unnamed.map(|rest| (String::new(), rest)));
        let classes = match counted.collect::<Vec<_>>().as_slice() {
            several if several.len() <= SOP_CLASSES => several.to_vec(),
            several => {
                let (known, rest) = several.split_at(SOP_CLASSES);
                let rest = rest.iter().map(|(_, count)| count).sum();
                known.iter().cloned().chain([(String::new(), rest)]).collect()
            }
        };
        let accessions = (!study.accession.is_empty()).then(|| study.accession.clone()).into_iter().collect();
        let (studies, instances) = (vec![study.study.clone()], study.lost.clone());
        let dicom = DicomData { accessions, sop_classes: classes, instances, studies };
        let disclosed = if self.intent.role == Role::Responder { "11" } else { "12" };
        Object { life_cycle: disclosed.to_owned(), dicom: Some(dicom), ..object }
    }
}

/// A message of the exchange, for proof; of a header for which there is no room its length and
/// digest.
fn evidence(message: &Evidence, code: &str, text: &str, whole: bool) -> Object {
    let id_type = Coded::new(code, "eHealth DSI Msg", text).shown(text);
    let object = Object::new("4", "", &message.message_id, id_type);
    match whole {
        true => object.header(&message.header),
        false => object.header(&bounds::told_bytes(message.header.as_bytes())),
    }
}

/// What the UID of an instance that did not come takes about.
fn lost_weight(uid: &str) -> usize {
    64 + 2 * bounds::written(uid)
}

/// Studies whose lost instances fit into one message each: one that lost more is told in several pieces.
fn pieces(studies: &[StudyObject]) -> Vec<StudyObject> {
    let pieces_of = |study: &StudyObject| {
        let lists = portions(&study.lost, |uid| lost_weight(uid));
        let Some((last, before)) = lists.split_last().filter(|(_, before)| !before.is_empty()) else {
            return vec![study.clone()];
        };
        let piece = |list: &[String], instances| StudyObject { lost: list.to_vec(), instances, ..study.clone() };
        let told: usize = before.iter().map(|list| list.len()).sum();
        let first =
            before.iter().map(|list| StudyObject { lost_more: String::new(), ..piece(list, list.len() as u64) });
        first.chain([piece(last, study.instances.saturating_sub(told as u64))]).collect()
    };
    studies.iter().flat_map(pieces_of).collect()
}

/// A list in pieces that one message holds each; one object always fits.
fn portions<T>(mut all: &[T], weight: impl Fn(&T) -> usize) -> Vec<&[T]> {
    let mut out = Vec::new();
    while !all.is_empty() {
        let mut taken = 0;
        let many = all.iter().take_while(|object| {
            let first = taken == 0;
            taken += weight(object);
            first || taken <= LISTED
        });
        let (piece, rest) = all.split_at(many.count());
        out.push(piece);
        all = rest;
    }
    out
}

fn document_details(object: Object, document: &DocumentObject) -> Object {
    object
        .detail("Repository Unique Id", &document.repository)
        .detail(HOME, &document.home)
        .detail("ncp:bytes", &document.bytes.to_string())
        .detail("ncp:sha-256", &document.sha256)
        .detail("ncp:terminology-snapshot", &document.snapshot)
}

/// Which exchange a record is of.
pub(super) fn exchange_object(exchange_id: &str) -> Object {
    Object::new("2", "26", exchange_id, Coded::new("ncp-exchange", "NCP", "Exchange id"))
}
