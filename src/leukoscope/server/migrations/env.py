"""How Alembic reaches the tables: over the connection that `Database.prepare` holds."""

from alembic import context

from leukoscope.server.database import Base

context.configure(
    connection=context.config.attributes["connection"], target_metadata=Base.metadata, render_as_batch=True
)
with context.begin_transaction():
    context.run_migrations()
