import java.io.FileInputStream;
import java.io.InputStream;
import java.net.URI;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyStore;
import java.security.cert.CertificateFactory;
import javax.net.ssl.HttpsURLConnection;
import javax.net.ssl.KeyManagerFactory;
import javax.net.ssl.SSLContext;
import javax.net.ssl.TrustManagerFactory;

/**
 * The platform's own HTTP client with its pool and its session cache posts each message of a folder, with the pause before
 * it in milliseconds from a file: Calls URL P12 ANCHORS FOLDER PAUSES. A line for each call that failed, then their number.
 */
public class Calls {
    public static void main(String[] args) throws Exception {
        char[] password = "changeit".toCharArray();
        KeyStore keys = KeyStore.getInstance("PKCS12");
        try (InputStream file = new FileInputStream(args[1])) {
            keys.load(file, password);
        }
        KeyManagerFactory own = KeyManagerFactory.getInstance("PKIX");
        own.init(keys, password);
        KeyStore anchors = KeyStore.getInstance("PKCS12");
        anchors.load(null, null);
        try (InputStream file = new FileInputStream(args[2])) {
            anchors.setCertificateEntry("root", CertificateFactory.getInstance("X.509").generateCertificate(file));
        }
        TrustManagerFactory trust = TrustManagerFactory.getInstance("PKIX");
        trust.init(anchors);
        SSLContext context = SSLContext.getInstance("TLS");
        context.init(own.getKeyManagers(), trust.getTrustManagers(), null);
        String[] pauses = Files.readString(Path.of(args[4])).trim().split(",");
        int failed = 0;
        for (int n = 0; n < pauses.length; n++) {
            Thread.sleep(Long.parseLong(pauses[n]));
            try {
                HttpsURLConnection call = (HttpsURLConnection) URI.create(args[0]).toURL().openConnection();
                call.setSSLSocketFactory(context.getSocketFactory());
                call.setRequestProperty("Content-Type", "application/soap+xml; charset=UTF-8");
                call.setDoOutput(true);
                call.getOutputStream().write(Files.readAllBytes(Path.of(args[3], n + ".xml")));
                byte[] answer = call.getInputStream().readAllBytes();
                if (call.getResponseCode() != 200 || !new String(answer, "UTF-8").contains("ResponseStatusType:Success")) {
                    throw new IllegalStateException("HTTP " + call.getResponseCode());
                }
            } catch (Exception error) {
                failed++;
                System.out.println("call " + n + " after " + pauses[n] + " ms: " + error);
            }
        }
        System.out.println("calls " + pauses.length + " failed " + failed);
    }
}
