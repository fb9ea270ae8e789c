import sys

from tests.torture.command import main

sys.exit(main(sys.argv[1:]))
