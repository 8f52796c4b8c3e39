"""Labels on everything that we create in an engine, by which left-overs are known."""

ROLE = "volferry.role"  # carrier, helper
IMAGE = "volferry.image"  # helper; not a role, for a container has the labels of its image
RUN = "volferry.run"  # the run that made it
OWNER = "volferry.owner"  # the state directory of the volferry that made it
INCOMPLETE = "volferry.incomplete"  # on a container that mounts a volume whose migration has not ended
