package interop;

import jakarta.activation.DataHandler;
import jakarta.activation.FileDataSource;
import jakarta.servlet.ServletException;
import jakarta.servlet.http.HttpServlet;
import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpServletResponse;
import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.io.StringWriter;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import javax.xml.parsers.DocumentBuilderFactory;
import javax.xml.transform.OutputKeys;
import javax.xml.transform.Transformer;
import javax.xml.transform.TransformerFactory;
import javax.xml.transform.dom.DOMSource;
import javax.xml.transform.stream.StreamResult;
import org.apache.camel.CamelContext;
import org.apache.camel.Exchange;
import org.apache.camel.Processor;
import org.apache.camel.builder.RouteBuilder;
import org.openehealth.ipf.commons.ihe.xds.core.metadata.AssigningAuthority;
import org.openehealth.ipf.commons.ihe.xds.core.metadata.AvailabilityStatus;
import org.openehealth.ipf.commons.ihe.xds.core.metadata.Code;
import org.openehealth.ipf.commons.ihe.xds.core.metadata.DocumentEntry;
import org.openehealth.ipf.commons.ihe.xds.core.metadata.DocumentEntryType;
import org.openehealth.ipf.commons.ihe.xds.core.metadata.Identifiable;
import org.openehealth.ipf.commons.ihe.xds.core.metadata.LocalizedString;
import org.openehealth.ipf.commons.ihe.xds.core.requests.DocumentReference;
import org.openehealth.ipf.commons.ihe.xds.core.requests.QueryRegistry;
import org.openehealth.ipf.commons.ihe.xds.core.requests.RetrieveDocumentSet;
import org.openehealth.ipf.commons.ihe.xds.core.requests.RetrieveImagingDocumentSet;
import org.openehealth.ipf.commons.ihe.xds.core.requests.query.FindDocumentsQuery;
import org.openehealth.ipf.commons.ihe.xds.core.requests.query.GetDocumentsQuery;
import org.openehealth.ipf.commons.ihe.xds.core.responses.ErrorCode;
import org.openehealth.ipf.commons.ihe.xds.core.responses.ErrorInfo;
import org.openehealth.ipf.commons.ihe.xds.core.responses.QueryResponse;
import org.openehealth.ipf.commons.ihe.xds.core.responses.RetrievedDocument;
import org.openehealth.ipf.commons.ihe.xds.core.responses.RetrievedDocumentSet;
import org.openehealth.ipf.commons.ihe.xds.core.responses.Severity;
import org.openehealth.ipf.commons.ihe.xds.core.responses.Status;
import org.openehealth.ipf.platform.camel.ihe.hl7v3.PixPdqV3CamelValidators;
import org.openehealth.ipf.platform.camel.ihe.xds.XdsCamelValidators;
import org.w3c.dom.Document;
import org.w3c.dom.Element;
import org.w3c.dom.Node;
import org.w3c.dom.NodeList;

/** Answers as another country's gateways and as national systems; IPF's validators judge each request of ours. */
final class Server {
    private static final String HL7 = "urn:hl7-org:v3";
    private final CamelContext camel;
    private final Properties settings;

    Server(CamelContext camel, Properties settings) {
        this.camel = camel;
        this.settings = settings;
    }

    boolean run() throws Exception {
        return Web.serve(camel, settings, routes(), Map.of("/xca", new Xca()));
    }

    /** One address for ITI-38 and ITI-39, as gateways of the field have it: packages go to the one, simple SOAP to the other. */
    private static final class Xca extends HttpServlet {
        private static final long serialVersionUID = 1L;

        @Override
        protected void doPost(HttpServletRequest request, HttpServletResponse response)
                throws IOException, ServletException {
            boolean packaged = String.valueOf(request.getContentType()).startsWith("multipart/");
            request.getRequestDispatcher(packaged ? "/services/iti39" : "/services/iti38").forward(request, response);
        }
    }

    private RouteBuilder routes() {
        return new RouteBuilder() {
            @Override
            public void configure() {
                onException(Exception.class).process(exchange -> told("request", exchange, false));
                route("xca-iti38:iti38", XdsCamelValidators.iti38RequestValidator(), Server.this::query);
                route("xds-iti18:iti18", XdsCamelValidators.iti18RequestValidator(), Server.this::query);
                route("xca-iti39:iti39", XdsCamelValidators.iti39RequestValidator(), Server.this::documents);
                route("xds-iti43:iti43", XdsCamelValidators.iti43RequestValidator(), Server.this::documents);
                route("xcai-rad75:rad75", XdsCamelValidators.rad75RequestValidator(), Server.this::images);
                route("xdsi-rad69:rad69", XdsCamelValidators.rad69RequestValidator(), Server.this::images);
                route("xcpd-iti55:iti55", PixPdqV3CamelValidators.iti55RequestValidator(), Server.this::patient);
                route("pdqv3-iti47:iti47", PixPdqV3CamelValidators.iti47RequestValidator(), Server.this::patient);
            }

            private void route(String endpoint, Processor validator, Processor answer) {
                String name = endpoint.substring(endpoint.indexOf(':') + 1);
                from(endpoint + "?audit=false").routeId(name).process(validator).process(answer)
                    .process(exchange -> told(name, exchange, true));
            }
        };
    }

    private static void told(String name, Exchange exchange, boolean ok) {
        Throwable error = exchange.getProperty(Exchange.EXCEPTION_CAUGHT, Throwable.class);
        String route = exchange.getFromRouteId();
        String why = error == null ? "" : String.valueOf(error.getMessage()).replaceAll("[\"\\\\\\s]+", " ");
        System.out.printf("{\"leg\":\"%s\",\"ok\":%s,\"facts\":\"%s\"}%n", ok ? name : route, ok, why);
    }

    private void query(Exchange exchange) throws Exception {
        QueryRegistry request = exchange.getIn().getBody(QueryRegistry.class);
        QueryResponse response = new QueryResponse(Status.SUCCESS);
        List<DocumentEntry> entries = new ArrayList<>();
        for (String name : settings.getProperty("documents").split(",")) {
            DocumentEntry entry = entry(name);
            boolean wanted = true;
            if (request.getQuery() instanceof FindDocumentsQuery find) {
                wanted = find.getPatientId().getId().equals(settings.getProperty("patient.id"));
            } else if (request.getQuery() instanceof GetDocumentsQuery get) {
                wanted = (get.getUniqueIds() != null && get.getUniqueIds().contains(entry.getUniqueId()))
                    || (get.getUuids() != null && get.getUuids().contains(entry.getEntryUuid()));
            }
            if (wanted) {
                entries.add(entry);
            }
        }
        response.setDocumentEntries(entries);
        exchange.getMessage().setBody(response);
    }

    private String of(String name, String key) {
        return settings.getProperty("document." + name + "." + key);
    }

    private DocumentEntry entry(String name) throws Exception {
        byte[] bytes = Files.readAllBytes(Path.of(of(name, "file")));
        Identifiable patient = new Identifiable(settings.getProperty("patient.id"),
            new AssigningAuthority(settings.getProperty("patient.authority")));
        DocumentEntry entry = new DocumentEntry();
        entry.setEntryUuid(of(name, "uuid"));
        entry.setLogicalUuid(of(name, "uuid"));
        entry.setUniqueId(of(name, "unique_id"));
        entry.setPatientId(patient);
        entry.setSourcePatientId(patient);
        entry.setAvailabilityStatus(AvailabilityStatus.APPROVED);
        entry.setType(DocumentEntryType.STABLE);
        entry.setHomeCommunityId(settings.getProperty("home"));
        entry.setRepositoryUniqueId(settings.getProperty("repository"));
        entry.setCreationTime("20260102091500");
        entry.setHash(java.util.HexFormat.of().formatHex(java.security.MessageDigest.getInstance("SHA-1").digest(bytes)));
        entry.setSize((long) bytes.length);
        entry.setLanguageCode("fi-FI");
        entry.setMimeType(of(name, "media_type"));
        entry.setTitle(new LocalizedString(name, "fi-FI", "UTF-8"));
        entry.setClassCode(code("18748-4", "2.16.840.1.113883.6.1"));
        entry.setTypeCode(code("18748-4", "2.16.840.1.113883.6.1"));
        entry.setFormatCode(code(of(name, "format"), "1.2.840.10008.2.6.1"));
        entry.setHealthcareFacilityTypeCode(code("35971002", "2.16.840.1.113883.6.96"));
        entry.setPracticeSettingCode(code("394914008", "2.16.840.1.113883.6.96"));
        entry.getConfidentialityCodes().add(code("N", "2.16.840.1.113883.5.25"));
        return entry;
    }

    private static Code code(String code, String scheme) {
        return new Code(code, new LocalizedString(code, "en-US", "UTF-8"), scheme);
    }

    private void documents(Exchange exchange) {
        RetrieveDocumentSet request = exchange.getIn().getBody(RetrieveDocumentSet.class);
        RetrievedDocumentSet response = new RetrievedDocumentSet(Status.SUCCESS);
        for (DocumentReference wanted : request.getDocuments()) {
            String file = null;
            String type = null;
            for (String name : settings.getProperty("documents").split(",")) {
                if (of(name, "unique_id").equals(wanted.getDocumentUniqueId())) {
                    file = of(name, "file");
                    type = of(name, "media_type");
                }
            }
            add(response, wanted, file, type);
        }
        finish(exchange, response);
    }

    private void images(Exchange exchange) {
        RetrieveImagingDocumentSet request = exchange.getIn().getBody(RetrieveImagingDocumentSet.class);
        RetrievedDocumentSet response = new RetrievedDocumentSet(Status.SUCCESS);
        request.getRetrieveStudies().forEach(study -> study.getRetrieveSerieses().forEach(series ->
            series.getDocuments().forEach(wanted -> add(response, wanted,
                settings.getProperty("image." + wanted.getDocumentUniqueId()), "application/dicom"))));
        finish(exchange, response);
    }

    private void add(RetrievedDocumentSet response, DocumentReference wanted, String file, String type) {
        if (file == null) {
            ErrorInfo error = new ErrorInfo(ErrorCode.DOCUMENT_UNIQUE_ID_ERROR, "not available", Severity.ERROR,
                wanted.getDocumentUniqueId() + " " + settings.getProperty("home"), null);
            response.getErrors().add(error);
            return;
        }
        RetrievedDocument document = new RetrievedDocument();
        document.setRequestData(wanted);
        document.setMimeType(type);
        document.setDataHandler(new DataHandler(new FileDataSource(file)));
        response.getDocuments().add(document);
    }

    private static void finish(Exchange exchange, RetrievedDocumentSet response) {
        if (!response.getErrors().isEmpty()) {
            response.setStatus(response.getDocuments().isEmpty() ? Status.FAILURE : Status.PARTIAL_SUCCESS);
        }
        exchange.getMessage().setBody(response);
    }

    /** The prepared match, or that there is none, with the query of the request in it. */
    private void patient(Exchange exchange) throws Exception {
        Document request = parse(exchange.getIn().getBody(String.class).getBytes(StandardCharsets.UTF_8));
        boolean known = false;
        NodeList values = request.getElementsByTagNameNS(HL7, "value");
        for (int index = 0; index < values.getLength(); index++) {
            String extension = ((Element) values.item(index)).getAttribute("extension");
            known |= extension.equals(settings.getProperty("patient.id"));
        }
        Document answer = parse(Files.readAllBytes(Path.of(settings.getProperty(known ? "match" : "nomatch"))));
        Node query = answer.importNode(request.getElementsByTagNameNS(HL7, "queryByParameter").item(0), true);
        Node prepared = answer.getElementsByTagNameNS(HL7, "queryByParameter").item(0);
        prepared.getParentNode().replaceChild(query, prepared);
        StringWriter out = new StringWriter();
        Transformer transformer = TransformerFactory.newInstance().newTransformer();
        transformer.setOutputProperty(OutputKeys.OMIT_XML_DECLARATION, "yes");
        transformer.transform(new DOMSource(answer), new StreamResult(out));
        exchange.getMessage().setBody(out.toString());
    }

    private static Document parse(byte[] xml) throws Exception {
        DocumentBuilderFactory factory = DocumentBuilderFactory.newInstance();
        factory.setNamespaceAware(true);
        return factory.newDocumentBuilder().parse(new ByteArrayInputStream(xml));
    }
}
