"""Types of cells."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Make room for the type of each cell; what was said before told none."""
    op.add_column("cells", sa.Column("type", sa.String(length=200), nullable=False, server_default=""))
    op.add_column("predictions", sa.Column("type", sa.String(length=200), nullable=False, server_default=""))
    op.add_column("predictions", sa.Column("types", sa.JSON(none_as_null=True), nullable=True))
