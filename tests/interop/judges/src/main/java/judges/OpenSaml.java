package judges;

import java.io.FileInputStream;
import java.io.InputStream;
import java.util.ArrayList;
import java.util.List;
import javax.xml.transform.dom.DOMSource;
import javax.xml.validation.Schema;
import net.shibboleth.utilities.java.support.xml.BasicParserPool;
import org.opensaml.core.config.InitializationService;
import org.opensaml.core.xml.config.XMLObjectProviderRegistrySupport;
import org.opensaml.saml.common.xml.SAMLConstants;
import org.opensaml.saml.common.xml.SAMLSchemaBuilder;
import org.opensaml.saml.saml2.core.Assertion;
import org.opensaml.saml.security.impl.SAMLSignatureProfileValidator;
import org.opensaml.security.x509.BasicX509Credential;
import org.opensaml.xmlsec.keyinfo.KeyInfoSupport;
import org.opensaml.xmlsec.signature.Signature;
import org.opensaml.xmlsec.signature.support.SignatureValidator;
import org.w3c.dom.Document;
import org.w3c.dom.Element;
import org.w3c.dom.NodeList;

/**
 * Judges every SAML 2.0 assertion of the files named: OpenSAML's own schemas, then its signature profile, then the signature with
 * the one certificate of KeyInfo. It looks for roles and purposes as OpenNCP's receivers do, by a name without a prefix. A line a
 * file: its name, {@code taken} with the number of assertions or {@code refused} with the check, and why.
 */
public final class OpenSaml {
    private OpenSaml() {}

    /** What is wrong with an assertion, by the check that found it. */
    private static final class Refused extends Exception {
        private static final long serialVersionUID = 1L;

        Refused(String check, String why) {
            super(check + ": " + why);
        }
    }

    public static void main(String[] files) throws Exception {
        InitializationService.initialize();
        BasicParserPool parsers = new BasicParserPool();
        parsers.setNamespaceAware(true);
        parsers.initialize();
        // The choice concerns SAML 1; the schemas of SAML 2.0 are in either.
        Schema schema = new SAMLSchemaBuilder(SAMLSchemaBuilder.SAML1Version.SAML_11).getSAMLSchema();
        for (String file : files) {
            String verdict;
            try (InputStream in = new FileInputStream(file)) {
                Document document = parsers.parse(in);
                List<Element> found = assertions(document);
                for (Element assertion : found) {
                    judge(assertion, schema);
                }
                verdict = found.isEmpty() ? "refused\tnothing: no assertion" : "taken\t" + found.size();
            } catch (Refused refused) {
                verdict = "refused\t" + line(refused);
            }
            System.out.println(file + "\t" + verdict);
        }
    }

    private static List<Element> assertions(Document document) {
        NodeList all = document.getElementsByTagNameNS(SAMLConstants.SAML20_NS, Assertion.DEFAULT_ELEMENT_LOCAL_NAME);
        List<Element> found = new ArrayList<>();
        for (int i = 0; i < all.getLength(); i++) {
            found.add((Element) all.item(i));
        }
        return found;
    }

    private static void judge(Element element, Schema schema) throws Refused {
        try {
            schema.newValidator().validate(new DOMSource(element));
        } catch (Exception error) {
            throw new Refused("schema", line(error));
        }
        Assertion assertion;
        try {
            assertion = (Assertion) XMLObjectProviderRegistrySupport.getUnmarshallerFactory()
                    .getUnmarshaller(element)
                    .unmarshall(element);
        } catch (Exception error) {
            throw new Refused("unmarshalling", line(error));
        }
        Signature signature = assertion.getSignature();
        if (signature == null) {
            throw new Refused("signature", "none");
        }
        try {
            new SAMLSignatureProfileValidator().validate(signature);
            var certificates = KeyInfoSupport.getCertificates(signature.getKeyInfo());
            if (certificates.size() != 1) {
                throw new Refused("certificates", String.valueOf(certificates.size()));
            }
            SignatureValidator.validate(signature, new BasicX509Credential(certificates.get(0)));
        } catch (Refused refused) {
            throw refused;
        } catch (Exception error) {
            throw new Refused("signature", line(error));
        }
        if (assertion.getSubject() == null
                || assertion.getSubject().getNameID() == null
                || assertion.getConditions() == null
                || assertion.getAuthnStatements().size() != 1
                || assertion.getAttributeStatements().size() != 1) {
            throw new Refused("content", "a part is missing");
        }
        boolean hasRole = assertion.getAttributeStatements().get(0).getAttributes().stream()
                .anyMatch(a -> "urn:oasis:names:tc:xacml:2.0:subject:role".equals(a.getName()));
        boolean hasPurpose = assertion.getAttributeStatements().get(0).getAttributes().stream()
                .anyMatch(a -> "urn:oasis:names:tc:xspa:1.0:subject:purposeofuse".equals(a.getName()));
        if (hasRole != (element.getElementsByTagName("Role").getLength() == 1)
                || hasPurpose != (element.getElementsByTagName("PurposeOfUse").getLength() == 1)) {
            throw new Refused("content", "role or purpose is not found by its name");
        }
    }

    private static String line(Exception error) {
        return String.valueOf(error.getMessage()).replaceAll("\\s+", " ");
    }
}
