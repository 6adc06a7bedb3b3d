# Sourced from the project's folder: builds the Axis2 client below the target folder and names its classes. The addressing
# module is an archive of its own that Axis2 finds on the class path.
install_packages openjdk-17-jdk-headless maven
mkdir -p "${CARGO_TARGET_DIR:-target}"
axis2="$(cd "${CARGO_TARGET_DIR:-target}" && pwd)/axis2"
mvn -q -B -f tests/interop/axis2/pom.xml -Dncp.target="$axis2" compile dependency:build-classpath -Dmdep.outputFile="$axis2/classpath"
NCP_AXIS2_CLASSPATH="$axis2/classes:$(cat "$axis2/classpath")"
export NCP_AXIS2_CLASSPATH
