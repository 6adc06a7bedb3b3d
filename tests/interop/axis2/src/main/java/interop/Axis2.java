package interop;

import java.io.ByteArrayInputStream;
import java.io.InputStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyFactory;
import java.security.KeyStore;
import java.security.MessageDigest;
import java.security.PrivateKey;
import java.security.cert.Certificate;
import java.security.cert.CertificateFactory;
import java.security.spec.PKCS8EncodedKeySpec;
import java.util.Base64;
import java.util.Collection;
import java.util.HexFormat;
import java.util.Iterator;
import java.util.Properties;
import javax.activation.DataHandler;
import javax.net.ssl.KeyManagerFactory;
import javax.net.ssl.SSLContext;
import javax.net.ssl.TrustManagerFactory;
import javax.xml.namespace.QName;
import org.apache.axiom.om.OMElement;
import org.apache.axiom.om.OMText;
import org.apache.axiom.om.OMXMLBuilderFactory;
import org.apache.axiom.soap.SOAP12Constants;
import org.apache.axis2.Constants;
import org.apache.axis2.addressing.AddressingConstants;
import org.apache.axis2.addressing.EndpointReference;
import org.apache.axis2.client.Options;
import org.apache.axis2.client.ServiceClient;
import org.apache.axis2.context.ConfigurationContext;
import org.apache.axis2.context.ConfigurationContextFactory;
import org.apache.axis2.kernel.http.HTTPConstants;
import org.apache.http.impl.client.HttpClients;

/** Axis2 asks the gateway for a list and for a document: {@code Axis2 SETTINGS}; a line of JSON for each leg. */
public final class Axis2 {
    private static final String XDSB = "urn:ihe:iti:xds-b:2007";

    private final Properties settings;
    private boolean allOk = true;

    private Axis2(Properties settings) throws Exception {
        this.settings = settings;
    }

    public static void main(String[] arguments) throws Exception {
        Properties settings = new Properties();
        try (InputStream in = Files.newInputStream(Path.of(arguments[0]))) {
            settings.load(in);
        }
        Axis2 client = new Axis2(settings);
        for (boolean addressing : new boolean[] {true, false}) {
            String way = addressing ? "with addressing" : "without addressing";
            client.leg("ITI-38 " + way, () -> client.list(addressing));
            client.leg("ITI-39 " + way, () -> client.document(addressing));
        }
        System.exit(client.allOk ? 0 : 1);
    }

    private interface Leg {
        String run() throws Exception;
    }

    private void leg(String name, Leg leg) {
        String facts;
        boolean ok = true;
        try {
            facts = leg.run();
        } catch (Exception | AssertionError error) {
            ok = false;
            allOk = false;
            facts = String.valueOf(error).replaceAll("[\"\\\\\\p{Cntrl}]", " ");
        }
        System.out.println("{\"leg\":\"" + name + "\",\"ok\":" + ok + ",\"facts\":\"" + facts + "\"}");
    }

    /** The list: a success with as many entries as are expected. */
    private String list(boolean addressing) throws Exception {
        OMElement answer = call("iti38", "urn:ihe:iti:2007:CrossGatewayQuery", addressing);
        String status = answer.getAttributeValue(new QName("status"));
        expect(status != null && status.endsWith(":Success"), "status " + status);
        int entries = count(answer, "ExtrinsicObject");
        expect(entries == Integer.parseInt(settings.getProperty("entries")), entries + " entries");
        return entries + " entries";
    }

    /** The document: its bytes by MTOM, whole. */
    private String document(boolean addressing) throws Exception {
        OMElement answer = call("iti39", "urn:ihe:iti:2007:CrossGatewayRetrieve", addressing);
        OMElement response = answer.getFirstChildWithName(new QName(XDSB, "DocumentResponse"));
        expect(response != null, "no document: " + answer);
        OMElement holder = response.getFirstChildWithName(new QName(XDSB, "Document"));
        OMText text = (OMText) holder.getFirstOMChild();
        DataHandler data = (DataHandler) text.getDataHandler();
        byte[] bytes = data.getInputStream().readAllBytes();
        String digest = HexFormat.of().formatHex(MessageDigest.getInstance("SHA-256").digest(bytes));
        expect(digest.equals(settings.getProperty("document.sha256")), "other bytes");
        return bytes.length + " bytes";
    }

    private OMElement call(String leg, String action, boolean addressing) throws Exception {
        ConfigurationContext context = context();
        ServiceClient client = new ServiceClient(context, null);
        Options options = new Options();
        options.setTo(new EndpointReference(settings.getProperty("url")));
        options.setAction(action);
        options.setSoapVersionURI(SOAP12Constants.SOAP_ENVELOPE_NAMESPACE_URI);
        options.setProperty(HTTPConstants.CACHED_HTTP_CLIENT, HttpClients.custom().setSSLContext(tls()).build());
        options.setProperty(HTTPConstants.REUSE_HTTP_CLIENT, true);
        options.setProperty(HTTPConstants.CHUNKED, false);
        options.setTimeOutInMilliSeconds(60_000);
        if (leg.equals("iti39")) {
            options.setProperty(Constants.Configuration.ENABLE_MTOM, Constants.VALUE_TRUE);
        }
        if (addressing) {
            client.engageModule("addressing");
            options.setProperty(AddressingConstants.ADD_MUST_UNDERSTAND_TO_ADDRESSING_HEADERS, Boolean.TRUE);
        }
        client.setOptions(options);
        client.addHeader(read(settings.getProperty("security")));
        // The parts of an answer are read from its connection, which ends with the program.
        return client.sendReceive(read(settings.getProperty(leg)));
    }

    /** Axis2's own default configuration and a repository that holds its addressing module. */
    private static ConfigurationContext context() throws Exception {
        Path repository = Files.createTempDirectory("axis2");
        Path modules = Files.createDirectories(repository.resolve("modules"));
        for (String entry : System.getProperty("java.class.path").split(":")) {
            if (entry.endsWith(".mar")) {
                Files.copy(Path.of(entry), modules.resolve(Path.of(entry).getFileName()));
            }
        }
        String text;
        try (InputStream in = ConfigurationContext.class.getResourceAsStream("/org/apache/axis2/deployment/axis2_default.xml")) {
            text = new String(in.readAllBytes(), java.nio.charset.StandardCharsets.UTF_8);
        }
        Path file = repository.resolve("axis2.xml");
        Files.writeString(file, text);
        return ConfigurationContextFactory.createConfigurationContextFromFileSystem(repository.toString(), file.toString());
    }

    private static OMElement read(String file) throws Exception {
        byte[] bytes = Files.readAllBytes(Path.of(file));
        return OMXMLBuilderFactory.createOMBuilder(new ByteArrayInputStream(bytes)).getDocumentElement();
    }

    private static int count(OMElement holder, String local) {
        int found = 0;
        for (Iterator<OMElement> all = holder.getChildElements(); all.hasNext();) {
            OMElement element = all.next();
            found += (element.getLocalName().equals(local) ? 1 : 0) + count(element, local);
        }
        return found;
    }

    private static void expect(boolean holds, String what) {
        if (!holds) {
            throw new AssertionError(what);
        }
    }

    private SSLContext tls() throws Exception {
        char[] secret = "changeit".toCharArray();
        KeyStore own = KeyStore.getInstance(KeyStore.getDefaultType());
        own.load(null, secret);
        Certificate[] chain = certificates("tls.certificate").toArray(new Certificate[0]);
        own.setKeyEntry("own", key(), secret, chain);
        KeyManagerFactory keys = KeyManagerFactory.getInstance(KeyManagerFactory.getDefaultAlgorithm());
        keys.init(own, secret);
        KeyStore anchors = KeyStore.getInstance(KeyStore.getDefaultType());
        anchors.load(null, secret);
        int number = 0;
        for (Certificate anchor : certificates("tls.anchors")) {
            anchors.setCertificateEntry("anchor" + number++, anchor);
        }
        TrustManagerFactory trust = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
        trust.init(anchors);
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(keys.getKeyManagers(), trust.getTrustManagers(), null);
        return context;
    }

    private Collection<? extends Certificate> certificates(String name) throws Exception {
        try (InputStream in = Files.newInputStream(Path.of(settings.getProperty(name)))) {
            return CertificateFactory.getInstance("X.509").generateCertificates(in);
        }
    }

    private PrivateKey key() throws Exception {
        String pem = Files.readString(Path.of(settings.getProperty("tls.key")));
        String base64 = pem.replaceAll("-----[A-Z ]+-----", "").replaceAll("\\s", "");
        PKCS8EncodedKeySpec spec = new PKCS8EncodedKeySpec(Base64.getDecoder().decode(base64));
        return KeyFactory.getInstance(settings.getProperty("tls.algorithm")).generatePrivate(spec);
    }
}
