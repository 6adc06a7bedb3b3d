# Sourced from the project's folder: builds IPF's counterpart below the target folder and names its classes.
install_packages openjdk-17-jdk-headless maven
mkdir -p "${CARGO_TARGET_DIR:-target}"
ipf="$(cd "${CARGO_TARGET_DIR:-target}" && pwd)/ipf"
mvn -q -B -f tests/interop/ipf/pom.xml -Dncp.target="$ipf" compile dependency:build-classpath -Dmdep.outputFile="$ipf/classpath"
NCP_IPF_CLASSPATH="$ipf/classes:$(cat "$ipf/classpath")"
export NCP_IPF_CLASSPATH
